"""What values a page: the average of its margins from the first step on, the learned model once there is one."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from hotset.daemon.heat import heat_values
from hotset.daemon.sequence import SequenceState
from hotset.predictor.model import MODEL_FILE, ReuseModel
from hotset.protos.errors import ModelError
from hotset.protos.features import FEATURES

Int32 = npt.NDArray[np.int32]
Float32 = npt.NDArray[np.float32]


class HeuristicScorer:
    """The average of score margins (hotset.protos.heat), by which the runtime's built-in policy ranks as well."""

    source: Literal["heuristic"] = "heuristic"
    version = ""
    prefetch_below = 1.0
    """Only pages that have stood at the threshold for a while: more of it costs more than it saves."""

    def values(self, sequence: SequenceState, lanes: Int32, pages: Int32) -> Float32:
        """See planner.Scorer."""
        with sequence.lock:
            return heat_values(sequence.features, lanes, pages)


class LearnedScorer:
    """A reuse model over the sequence's features. Immutable: a swap puts another object in its place."""

    source: Literal["learned"] = "learned"

    def __init__(self, model: ReuseModel, folder: Path | None = None) -> None:
        """`folder`: where the model's files lie, if anywhere."""
        self.model = model
        self.folder = folder
        self.made = None if folder is None else (folder / MODEL_FILE).stat().st_mtime
        """When it was trained, in seconds since 1970."""
        self.version = model.card.version[:256]
        self.prefetch_below = float(model.card.prefetch_threshold)

    @classmethod
    def load(cls, folder: Path, sha256: str | None = None) -> LearnedScorer:
        """Load and warm up a model folder, the one with this `sha256` if one is given.

        Raises ModelError if it is missing, damaged, another one, or for other features.
        """
        model = ReuseModel.load(folder)
        if sha256 is not None and sha256 != model.card.sha256:
            raise ModelError(f"{folder}: is not the model it was, SHA-256 {model.card.sha256[:16]}, not {sha256[:16]}")
        model.predict(np.zeros((1, len(FEATURES)), np.float32))
        return cls(model, folder.absolute())

    def values(self, sequence: SequenceState, lanes: Int32, pages: Int32) -> Float32:
        """See planner.Scorer."""
        if not len(lanes):
            return np.empty(0, np.float32)
        with sequence.lock:
            if not sequence.has_features:
                return heat_values(sequence.features, lanes, pages)
            rows = sequence.features.rows(lanes, pages)
        # The forest needs no more than the rows: the next step may be observed meanwhile.
        return self.model.predict(rows)
