"""The contract of a training engine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import lightgbm as lgb

from hotset.training.rows import Report, RowSet


@dataclass(frozen=True)
class Job:
    """What to fit: LightGBM parameters (seed and threads included) and how many trees."""

    params: Mapping[str, object]
    trees: int
    scheduler: str | None = None
    workers: int = 2


class Engine(Protocol):
    """Fits a forest to rows. Implementations neither split nor judge: both happen outside, for all alike."""

    def fit(self, rows: RowSet, job: Job, report: Report) -> lgb.Booster:
        """A booster of `job.trees` trees. The same rows and job give the same trees on the same engine.

        Raises TrainingError if the engine's own parts are missing or out of reach.
        """
        ...
