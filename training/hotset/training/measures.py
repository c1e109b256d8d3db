"""How well predictions on rows fit what happened. Replay is the judge; these figures explain its verdict.

Targets are log2 of steps to next use. A censored target is a lower bound (the window ended first), so it
counts where it decides the question and is left out where it does not.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import lightgbm as lgb
import numpy as np
import numpy.typing as npt
from sklearn.metrics import (  # type: ignore[import-untyped]
    mean_absolute_error,
    r2_score,
    roc_auc_score,
    root_mean_squared_error,
)

from hotset.training.rows import RowSet

Array = npt.NDArray[np.float64]
HORIZONS = (4, 16, 64)
_SAMPLE = 100_000
_CURVE_SAMPLE = 20_000
_BINS = 12


@dataclass(frozen=True)
class Sample:
    """Rows to judge a booster on: features [m, F], target [m], censored [m]."""

    features: npt.NDArray[np.float32]
    target: npt.NDArray[np.float32]
    censored: npt.NDArray[np.bool_]


def draw(rows: RowSet, seed: int, count: int = _SAMPLE) -> Sample:
    """At most `count` rows, drawn evenly."""
    features, chosen = rows.sample(count, seed)
    target, censored = rows.column("target")[chosen], rows.column("censored")[chosen]
    return Sample(features, target.astype(np.float32), censored.astype(np.bool_))


def row_metrics(predicted: Array, sample: Sample) -> dict[str, float]:
    """Errors over rows whose next use was seen, and how well `next use within h steps` is ranked (ROC AUC).

    A figure that the rows cannot give (no uncensored row, one class only) is left out.
    """
    seen = ~sample.censored
    metrics = {"rows": float(len(predicted)), "censored": float(sample.censored.mean())}
    if seen.sum() > 1:
        truth, guess = sample.target[seen], predicted[seen]
        metrics |= {
            "rmse": float(root_mean_squared_error(truth, guess)),
            "mae": float(mean_absolute_error(truth, guess)),
            "r2": float(r2_score(truth, guess)),
        }
    for steps in HORIZONS:
        soon = seen & (sample.target <= np.log2(steps))
        # Censored before the horizon: nobody knows whether it would have been used in time.
        known = seen | (sample.target >= np.log2(steps))
        if 0 < soon.sum() < known.sum():
            metrics[f"auc_within_{steps}"] = float(roc_auc_score(soon[known], -predicted[known]))
    return metrics


def learning_curve(booster: lgb.Booster, sample: Sample) -> list[float]:
    """Root mean squared error over (at most 20,000) uncensored rows after 1, 2, ... trees."""
    seen = np.flatnonzero(~sample.censored)
    # Evenly: rows come in the order of the log, where the first ones are all of early steps.
    seen = seen[:: max(1, -(-len(seen) // _CURVE_SAMPLE))]
    features, truth = sample.features[seen], sample.target[seen]
    total = np.zeros(len(truth))
    curve = []
    for tree in range(booster.num_trees()):
        total += np.asarray(booster.predict(features, start_iteration=tree, num_iteration=1, num_threads=1))
        curve.append(float(np.sqrt(np.mean((total - truth) ** 2))) if len(truth) else float("nan"))
    return curve


@dataclass(frozen=True)
class Calibration:
    """Rows in equal bins of rising prediction: mean prediction, mean target, rows, and share censored."""

    predicted: list[float]
    observed: list[float]
    rows: list[int]
    censored: list[float]

    def as_dict(self) -> dict[str, object]:
        """For JSON."""
        return asdict(self)


def calibrate(predicted: Array, sample: Sample) -> Calibration:
    """Compare predictions with targets in bins of equal size; censored targets enter as their lower bound."""
    parts = [part for part in np.array_split(np.argsort(predicted, kind="stable"), _BINS) if len(part)]
    return Calibration(
        predicted=[float(predicted[part].mean()) for part in parts],
        observed=[float(sample.target[part].mean()) for part in parts],
        rows=[len(part) for part in parts],
        censored=[float(sample.censored[part].mean()) for part in parts],
    )


def importance(booster: lgb.Booster, sample: Sample, count: int = 1000) -> dict[str, dict[str, float]]:
    """Per feature: total gain of its splits, and mean |SHAP value| over `count` rows (TreeSHAP: Lundberg et
    al., "Consistent individualized feature attribution for tree ensembles", 2018)."""
    names = booster.feature_name()
    gain = booster.feature_importance("gain")
    shap = np.asarray(booster.predict(sample.features[:count], pred_contrib=True, num_threads=1))
    strength = np.abs(shap[:, :-1]).mean(axis=0) if len(shap) else np.zeros(len(names))
    return {name: {"gain": float(g), "shap": float(s)} for name, g, s in zip(names, gain, strength, strict=True)}
