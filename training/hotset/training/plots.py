"""The pictures of a training run, as PNG files."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hotset.training.measures import Calibration, Sample

_TOP = 20
_DPI = 110


def save_all(
    folder: Path,
    *,
    curves: Mapping[str, Sequence[float]],
    calibration: Calibration,
    importance: Mapping[str, Mapping[str, float]],
    sample: Sample,
) -> None:
    """Draw learning curves, calibration, reuse distances and feature importance below `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    pictures: list[tuple[str, Callable[[Axes], None]]] = [
        ("learning_curve.png", lambda axes: _curves(axes, curves)),
        ("calibration.png", lambda axes: _calibration(axes, calibration)),
        ("reuse_distance.png", lambda axes: _distances(axes, sample)),
        ("importance_shap.png", lambda axes: _importance(axes, importance, "shap", "mean |SHAP value|")),
        ("importance_gain.png", lambda axes: _importance(axes, importance, "gain", "total gain")),
    ]
    for name, draw in pictures:
        figure = Figure(figsize=(6.4, 4.8), layout="constrained")
        draw(figure.subplots())
        figure.savefig(folder / name, dpi=_DPI)


def _curves(axes: Axes, curves: Mapping[str, Sequence[float]]) -> None:
    for label, values in curves.items():
        # Dashes, as both lines often lie on each other.
        axes.plot(np.arange(1, len(values) + 1), values, label=label, linestyle="--" if "held" in label else "-")
    axes.set(xlabel="trees", ylabel="RMSE, log2 steps", title="Learning curve (uncensored rows)")
    axes.legend()


def _calibration(axes: Axes, calibration: Calibration) -> None:
    axes.plot(calibration.predicted, calibration.observed, marker="o", label="held-out rows, equal bins")
    ends = [min(calibration.predicted), max(calibration.predicted)]
    axes.plot(ends, ends, linestyle="--", color="grey", label="perfect")
    axes.set(
        xlabel="predicted log2 steps to next use",
        ylabel="observed (censored: lower bound)",
        title="Calibration",
    )
    axes.legend()


def _distances(axes: Axes, sample: Sample) -> None:
    top = float(sample.target.max()) if len(sample.target) else 1.0
    bins = np.linspace(0.0, max(top, 1.0), 25).tolist()
    parts = [sample.target[~sample.censored], sample.target[sample.censored]]
    axes.hist(parts, bins=bins, stacked=True, label=["used again", "censored"])
    axes.set(xlabel="log2 steps to next use", ylabel="rows", title="Reuse distance (held-out rows)")
    axes.legend()


def _importance(axes: Axes, table: Mapping[str, Mapping[str, float]], column: str, label: str) -> None:
    ranked = sorted(table.items(), key=lambda item: item[1][column])[-_TOP:]
    axes.barh([name for name, _ in ranked], [row[column] for _, row in ranked])
    axes.set(xlabel=label, title="Feature importance")
