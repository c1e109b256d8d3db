"""A forest that scores rows."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt

from hotset.predictor.forest.parse import parse_text
from hotset.predictor.forest.score import add_scores
from hotset.predictor.forest.tables import build_tables
from hotset.protos.errors import ModelError
from hotset.protos.forest import EXP, SIGMOID, FlatForest

Float32 = npt.NDArray[np.float32]


class _Booster(Protocol):
    def model_to_string(self) -> str: ...


class Forest:
    """Immutable and safe to share between threads. Equals LightGBM's `Booster.predict` on float32 rows."""

    def __init__(self, flat: FlatForest) -> None:
        self._flat = flat
        self._tables = build_tables(flat)

    @classmethod
    def from_booster(cls, booster: _Booster, features_hash: str = "") -> Forest:
        """From a `lightgbm.Booster`. Raises ModelError for what is not served (see `parse_text`)."""
        return cls.from_text(booster.model_to_string(), features_hash)

    @classmethod
    def from_text(cls, text: str, features_hash: str = "") -> Forest:
        """From LightGBM's native text model. Raises ModelError as `parse_text` does."""
        return cls(parse_text(text, features_hash))

    @property
    def features(self) -> int:
        """Columns of a row."""
        return self._flat.features

    @property
    def trees(self) -> int:
        """Number of trees."""
        return len(self._flat.roots)

    def to_arrays(self) -> FlatForest:
        """The flat arrays, for the `model` message and the device kernels."""
        return self._flat

    def predict(self, rows: Float32) -> Float32:
        """Predictions [m] for rows float32 [m, F]. Raises ModelError if rows have another width."""
        if rows.ndim != 2 or rows.shape[1] != self.features:
            raise ModelError(f"the forest takes [m, {self.features}] rows, got {rows.shape}")
        total = np.zeros(len(rows))
        rows = np.ascontiguousarray(rows, np.float32)
        for tables in self._tables:
            add_scores(rows, tables, total)
        total *= self._flat.scale
        return self._apply_link(total).astype(np.float32)

    def _apply_link(self, raw: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        if self._flat.link == SIGMOID:
            with np.errstate(over="ignore"):
                return 1.0 / (1.0 + np.exp(-raw))
        if self._flat.link == EXP:
            return np.exp(raw)
        return raw
