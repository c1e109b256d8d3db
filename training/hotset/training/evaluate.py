"""What a model is worth on given traces: errors on rows, and replay against heuristics and the bound."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hotset.predictor.dataset import Rows, sequence_rows
from hotset.predictor.model import ReuseModel
from hotset.predictor.trace import open_trace, read_trace
from hotset.training.gate import Figures, GateSettings, replay_all, replay_on_device, with_lookahead
from hotset.training.measures import Sample, row_metrics
from hotset.training.rows import WIDTH

_ROWS = 200_000


@dataclass(frozen=True)
class Evaluation:
    """Metrics on sampled rows, and the figures of replay, the model first; `on_device` by its heads for the device."""

    metrics: dict[str, float]
    figures: tuple[Figures, ...]
    on_device: tuple[Figures, ...] = ()


def evaluate(
    model: ReuseModel, traces: Sequence[Path], settings: GateSettings, *, seed: int = 0, rows: int = _ROWS
) -> Evaluation:
    """Judge `model` on traces; TraceError if one cannot be read, ModelError if it has other features."""
    sample = _sample(traces, rows, seed)
    predicted = np.asarray(model.predict(sample.features), dtype=np.float64)
    read, models = [read_trace(path) for path in traces], {"model": model}
    figures = replay_all(read, models, settings)
    on_device = replay_on_device(with_lookahead(read), models, settings) if model.device else ()
    return Evaluation(row_metrics(predicted, sample), figures, on_device)


def _sample(traces: Sequence[Path], rows: int, seed: int) -> Sample:
    """About `rows` rows spread over all sequences, one sequence in memory at a time."""
    readers = [open_trace(path) for path in traces]
    members = [(reader, sequence) for reader in readers for sequence in reader.sequence_ids]
    parts: list[Rows] = []
    for index, (reader, number) in enumerate(members):
        sequence = reader.read(number)
        fraction = min(1.0, rows / max(1, len(members) * sequence.pages.size))
        parts += sequence_rows(sequence, reader.meta, fraction=fraction, seed=seed + index)
    empty = Sample(np.empty((0, WIDTH), np.float32), np.empty(0, np.float32), np.empty(0, np.bool_))
    return Sample(
        np.concatenate([empty.features, *(part.features for part in parts)]),
        np.concatenate([empty.target, *(part.target for part in parts)]),
        np.concatenate([empty.censored, *(part.censored for part in parts)]),
    )
