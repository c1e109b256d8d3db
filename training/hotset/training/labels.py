"""What the trees are asked to predict, and how much each row counts, a shard at a time."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from hotset.predictor import recipe
from hotset.training.rows import Floats, RowSet, Shard

ShardLabels = Callable[[Shard], tuple[Floats, Floats]]
"""Labels [m] and weights [m] of one shard's rows."""


def reuse_labels(shard: Shard) -> tuple[Floats, Floats]:
    """When a page is used next, as the predictor's recipe has it."""
    target = shard.column("target").astype(np.float32)
    censored = shard.column("censored").astype(np.bool_)
    return recipe.targets(target, censored), recipe.weights(target, censored)


def use_labels(shard: Shard) -> tuple[Floats, Floats]:
    """Whether a ranked page was used at the step it was ranked for: 1 or 0, all rows alike."""
    used = shard.column("used").astype(np.float32)
    return used, np.ones_like(used)


def gather(rows: RowSet, labels: ShardLabels) -> tuple[Floats, Floats]:
    """Labels and weights of all shards, in order."""
    parts = [labels(shard) for shard in rows.shards]
    return np.concatenate([y for y, _ in parts]), np.concatenate([weight for _, weight in parts])
