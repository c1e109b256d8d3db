"""What the trees are asked to predict, and how much each row counts: the predictor's recipe, a shard at a time."""

from __future__ import annotations

import numpy as np

from hotset.predictor import recipe
from hotset.training.rows import Floats, RowSet, Shard


def shard_labels(shard: Shard) -> tuple[Floats, Floats]:
    """Labels [m] and weights [m] of one shard's rows."""
    target = shard.column("target").astype(np.float32)
    censored = shard.column("censored").astype(np.bool_)
    return recipe.targets(target, censored), recipe.weights(target, censored)


def labels(rows: RowSet) -> tuple[Floats, Floats]:
    """`shard_labels` over all shards, in order."""
    parts = [shard_labels(shard) for shard in rows.shards]
    return np.concatenate([y for y, _ in parts]), np.concatenate([weight for _, weight in parts])
