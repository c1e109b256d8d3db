"""The model with its card, from a fitted booster and what is known of its data."""

from __future__ import annotations

import lightgbm as lgb
import numpy as np

from hotset.predictor.device import DeviceHeads
from hotset.predictor.guard.drift import feature_shares
from hotset.predictor.model import ModelCard, ReuseModel
from hotset.training.engines import Params
from hotset.training.judgement import Judgement
from hotset.training.rows import FEATURE_NAMES, Floats, TrainingRows
from hotset.training.use_head import UseHead

_BORDERS = np.linspace(0.0, 1.0, 11)[1:-1]
_DRIFT_ROWS = 20_000


def make_model(
    booster: lgb.Booster,
    rows: TrainingRows,
    judgement: Judgement,
    params: Params,
    use: UseHead | None,
    device: tuple[DeviceHeads, dict[str, float]] | None = None,
    *,
    trained: int = 0,
) -> ReuseModel:
    """The model of `booster` and, where there are any, the second head and the device's; its card names its data.

    `trained`: when the training began, in seconds since 1970.
    """
    features = judgement.train.features[:: max(1, len(judgement.train.features) // _DRIFT_ROWS)]
    quantiles = _deciles(features)
    card = ModelCard(
        params=params,
        trained=trained,
        trained_on=tuple(extent.encode() for extent in rows.train.extents),
        metrics=judgement.metrics | (use.metrics if use else {}) | (device[1] if device else {}),
        error=judgement.metrics["label_mse"],
        feature_quantiles=quantiles,
        feature_shares=feature_shares(features, quantiles),
        missing=dict(zip(FEATURE_NAMES, np.isnan(features).mean(axis=0).tolist(), strict=True)),
    )
    heads = device[0] if device else None
    return ReuseModel(card, booster.model_to_string(), None if use is None else use.text, heads)


def _deciles(features: Floats) -> dict[str, tuple[float, ...]]:
    """The nine borders that cut each feature's known values into equal shares; none if it has no value."""
    found = {}
    for index, name in enumerate(FEATURE_NAMES):
        known = features[:, index][~np.isnan(features[:, index])]
        found[name] = tuple(np.quantile(known, _BORDERS).tolist()) if len(known) else ()
    return found
