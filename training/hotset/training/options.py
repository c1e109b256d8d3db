"""What a training can be told. Every default is a product decision, stated here once."""

from __future__ import annotations

from dataclasses import dataclass, field

from hotset.training.errors import TrainingError
from hotset.training.registry import DEFAULT_NAME
from hotset.training.split import HELD_OUT, SPLITS

MIN_TREES, MAX_TREES = 1, 512


@dataclass(frozen=True)
class TrainOptions:
    """`rows` caps the sampled training and held-out rows together (0: all); `threads` 0 means all cores."""

    experiment: str = "hotset"
    name: str = DEFAULT_NAME
    seed: int = 0
    trees: int | None = None
    rows: int = 4_000_000
    held_out: float = HELD_OUT
    split: str = "auto"
    engine: str = "local"
    scheduler: str | None = None
    workers: int = 2
    threads: int = 1
    tracking_uri: str | None = None
    tags: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.trees is not None and not MIN_TREES <= self.trees <= MAX_TREES:
            raise TrainingError(f"{self.trees} trees; choose {MIN_TREES} to {MAX_TREES} (16 to 64 serve well)")
        if not 0.0 < self.held_out < 1.0:
            raise TrainingError(f"held-out share {self.held_out}; choose between 0 and 1, say 0.2")
        if self.split not in SPLITS:
            raise TrainingError(f"unknown split {self.split!r}; choose one of {', '.join(SPLITS)}")
        if self.rows < 0 or self.threads < 0 or not 0 <= self.seed < 1 << 31:
            raise TrainingError("--rows and --threads must not be negative, --seed must be 0 to 2147483647")
        if self.scheduler and self.engine != "dask":
            raise TrainingError("--scheduler needs --engine dask")
