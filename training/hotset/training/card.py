"""The model with its card, from a fitted booster and what is known of its data."""

from __future__ import annotations

from collections.abc import Mapping

import lightgbm as lgb

from hotset.predictor.model import ModelCard, ReuseModel
from hotset.training.rows import TrainingRows


def make_model(
    booster: lgb.Booster,
    rows: TrainingRows,
    metrics: Mapping[str, float],
    params: Mapping[str, float | int | str | bool],
) -> ReuseModel:
    """The model of `booster`; its card names every stretch of a sequence that it was trained on."""
    card = ModelCard(
        params=dict(params),
        trained_on=tuple(extent.encode() for extent in rows.train.extents),
        metrics=dict(metrics),
        error=metrics.get("label_mse"),
    )
    return ReuseModel(card, booster.model_to_string())
