"""All that is measured on a fresh booster while its rows are still on disk."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import lightgbm as lgb
import numpy as np

from hotset.predictor import recipe
from hotset.training import measures, plots
from hotset.training.rows import TrainingRows


@dataclass(frozen=True)
class Judgement:
    """Metrics on held-out rows, learning curves, importance, calibration, and the rows they came from."""

    metrics: dict[str, float]
    curves: dict[str, list[float]]
    importance: dict[str, dict[str, float]]
    calibration: measures.Calibration
    held_out: measures.Sample
    train: measures.Sample

    def save(self, folder: Path) -> None:
        """Draw the pictures into `folder`, and write the tables behind them as JSON."""
        plots.save_all(
            folder,
            curves=self.curves,
            calibration=self.calibration,
            importance=self.importance,
            sample=self.held_out,
        )
        tables = {"importance": self.importance, "calibration": self.calibration.as_dict()}
        (folder / "tables.json").write_text(json.dumps(tables, indent=1))


def judge_booster(booster: lgb.Booster, rows: TrainingRows, seed: int) -> Judgement:
    """Measure a booster on samples of the held-out rows (and, for its learning curve, of the training rows)."""
    held_out, train_rows = measures.draw(rows.held_out, seed), measures.draw(rows.train, seed)
    predicted = np.asarray(booster.predict(held_out.features, num_threads=1))
    label = recipe.targets(held_out.target, held_out.censored)
    weight = recipe.weights(held_out.target, held_out.censored)
    fit = {"label_mse": float(np.average((predicted - label) ** 2, weights=weight))}
    sizes = {"train_rows": float(rows.train.rows), "trees": float(booster.num_trees())}
    return Judgement(
        metrics=measures.row_metrics(predicted, held_out) | fit | sizes,
        curves={
            "train rmse": measures.learning_curve(booster, train_rows),
            "held-out rmse": measures.learning_curve(booster, held_out),
        },
        importance=measures.importance(booster, held_out),
        calibration=measures.calibrate(predicted, held_out),
        held_out=held_out,
        train=train_rows,
    )
