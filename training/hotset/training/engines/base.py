"""The contract of a training engine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import lightgbm as lgb

from hotset.training.labels import ShardLabels, reuse_labels
from hotset.training.rows import FEATURE_NAMES, Report, RowSet

Params = dict[str, float | int | str | bool]
"""LightGBM parameters."""


@dataclass(frozen=True)
class Job:
    """What to fit: LightGBM parameters (seed and threads included), how many trees, and to which labels."""

    params: Params
    trees: int
    names: Sequence[str] = tuple(FEATURE_NAMES)
    labels: ShardLabels = reuse_labels
    scheduler: str | None = None
    workers: int = 2


class Engine(Protocol):
    """Fits a forest to rows. Implementations neither split nor judge: both happen outside, for all alike."""

    def fit(self, rows: RowSet, job: Job, report: Report) -> lgb.Booster:
        """A booster of `job.trees` trees. The same rows and job give the same trees on the same engine.

        Raises TrainingError if the engine's own parts are missing or out of reach.
        """
        ...
