"""Fit both heads by the recipe."""

from __future__ import annotations

from collections.abc import Sequence

import lightgbm as lgb
import numpy as np

from hotset.predictor import recipe
from hotset.predictor.dataset import Rows, sequence_rows
from hotset.predictor.device import DeviceHeads, new_device_state
from hotset.predictor.device.lookahead import new_device_lookahead
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


def device_rows(trace: Trace, *, fraction: float, seed: int) -> tuple[Rows, UseRows | None]:
    """Rows of the device's two heads; the second is None if the trace recorded no lookahead."""
    values, uses = [], []
    for index, sequence in enumerate(trace.sequences):
        more, meta = seed + index, trace.meta
        state = new_device_state(sequence, meta)
        values += list(sequence_rows(sequence, meta, fraction=fraction, seed=more, state=state))
        states = new_device_state(sequence, meta), new_device_lookahead(sequence.page_count, meta)
        uses += list(use_rows(sequence, meta, fraction=2 * fraction, seed=more, states=states))
    first = Rows(*(np.concatenate([chunk[column] for chunk in values]) for column in range(4)))
    if not uses:
        return first, None
    return first, UseRows(*(np.concatenate([chunk[column] for chunk in uses]) for column in range(3)))


def fit(
    rows: Sequence[Rows],
    ranked: Sequence[UseRows] = (),
    *,
    device: Sequence[tuple[Rows, UseRows]] = (),
    seed: int = 0,
) -> ReuseModel:
    """A model from the rows of several traces; with a second head and heads for the device if there are their rows."""
    first = _fit_value(rows, recipe.TREES, seed)
    use_text = _fit_use(ranked, recipe.USE_TREES, seed) if ranked else None
    return ReuseModel(ModelCard(), first, use_text, fit_device(device, seed=seed) if device else None)


def fit_device(rows: Sequence[tuple[Rows, UseRows]], *, seed: int = 0) -> DeviceHeads:
    """The device's heads from the rows of several traces."""
    values, uses = zip(*rows, strict=True)
    return DeviceHeads(_fit_value(values, recipe.DEVICE_TREES, seed), _fit_use(uses, recipe.DEVICE_TREES, seed))


def _fit_value(rows: Sequence[Rows], trees: int, seed: int) -> str:
    features = np.concatenate([part.features for part in rows])
    target = np.concatenate([part.target for part in rows])
    censored = np.concatenate([part.censored for part in rows])
    data = lgb.Dataset(features, recipe.targets(target, censored), weight=recipe.weights(target, censored))
    return lgb.train(recipe.lightgbm_params(seed=seed), data, trees).model_to_string()


def _fit_use(rows: Sequence[UseRows], trees: int, seed: int) -> str:
    features = np.concatenate([part.features for part in rows])
    used = np.concatenate([part.used for part in rows])
    return lgb.train(recipe.use_params(seed=seed), lgb.Dataset(features, used), trees).model_to_string()
