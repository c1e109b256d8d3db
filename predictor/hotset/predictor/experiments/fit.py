"""Fit both heads by the recipe."""

from __future__ import annotations

from collections.abc import Sequence

import lightgbm as lgb
import numpy as np

from hotset.predictor import recipe
from hotset.predictor.dataset import Rows, sequence_rows
from hotset.predictor.lookahead import UseRows, use_rows
from hotset.predictor.model import ModelCard, ReuseModel
from hotset.predictor.trace import Trace


def reuse_rows(trace: Trace, *, fraction: float, seed: int) -> Rows:
    """Rows of the first head, of all sequences of a trace."""
    chunks = [
        chunk
        for index, sequence in enumerate(trace.sequences)
        for chunk in sequence_rows(sequence, trace.meta, fraction=fraction, seed=seed + index)
    ]
    return Rows(*(np.concatenate([chunk[column] for chunk in chunks]) for column in range(4)))


def lookahead_rows(trace: Trace, *, fraction: float, seed: int) -> UseRows | None:
    """Rows of the second head; None if the trace recorded no lookahead."""
    chunks = [
        chunk
        for index, sequence in enumerate(trace.sequences)
        for chunk in use_rows(sequence, trace.meta, fraction=fraction, seed=seed + index)
    ]
    if not chunks:
        return None
    return UseRows(*(np.concatenate([chunk[column] for chunk in chunks]) for column in range(3)))


def fit(rows: Sequence[Rows], ranked: Sequence[UseRows] = (), *, seed: int = 0) -> ReuseModel:
    """A model from the rows of several traces; with a second head if there are ranked rows."""
    features = np.concatenate([part.features for part in rows])
    target = np.concatenate([part.target for part in rows])
    censored = np.concatenate([part.censored for part in rows])
    data = lgb.Dataset(features, recipe.targets(target, censored), weight=recipe.weights(target, censored))
    first = lgb.train(recipe.lightgbm_params(seed=seed), data, recipe.TREES)
    use_text = None
    if ranked:
        features = np.concatenate([part.features for part in ranked])
        used = np.concatenate([part.used for part in ranked])
        second = lgb.train(recipe.use_params(seed=seed), lgb.Dataset(features, used), recipe.USE_TREES)
        use_text = second.model_to_string()
    return ReuseModel(ModelCard(), first.model_to_string(), use_text)
