"""The report's pictures, as SVG text or PNG data, with nothing fetched from anywhere."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np

from hotset.ops.lanes import FILE, MISSED, RESIDENT, SELECTED
from hotset.ops.report.collect import Run
from hotset.predictor.replay import ReplayResult

COLOURS = {"builtin": "#7a828e", "heuristic": "#c98a1b", "learned": "#1f7a5c"}
_EVENTS = {"attach": "daemon attaches", "training_started": "training", "swap": "model swapped in"}
_STYLE: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "svg.fonttype": "none",
}


def _figure(width: float, height: float, rows: int = 1, columns: int = 1) -> tuple[Any, Any]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, squeeze=False)


def misses_over_time(run: Run) -> str:
    """Demand misses of every step, coloured by who steered, with attach, training and swap marked."""
    with mpl.rc_context(_STYLE):
        figure, axes = _figure(9.6, 3.4)
        axis = axes[0, 0]
        epochs = np.array([s["epoch"] for s in run.steps])
        misses = np.array([s["demand_misses"] for s in run.steps])
        phases = np.array([run.phase_of(s) for s in run.steps])
        for phase, colour in COLOURS.items():
            here = phases == phase
            if here.any():
                axis.bar(epochs[here], misses[here], width=1.0, color=colour, alpha=0.45, linewidth=0)
                median = float(np.median(misses[here]))
                axis.hlines(median, epochs[here].min() - 0.5, epochs[here].max() + 0.5, color=colour, linewidth=2)
                axis.annotate(f"{phase}: median {median:.0f}", (epochs[here].mean(), median), ha="center", va="bottom",
                              xytext=(0, 4), textcoords="offset points", color=colour, weight="bold",
                              bbox={"facecolor": "white", "alpha": 0.8, "edgecolor": "none", "pad": 1.5})  # fmt: skip
        top = float(np.quantile(misses, 0.98)) * 1.35 + 1
        axis.set_ylim(0, top)
        for name, text in _EVENTS.items():
            if (epoch := run.epoch(name)) is not None:
                axis.axvline(epoch + 0.5, color="#333", linewidth=0.8, linestyle=":")
                axis.annotate(text, (epoch + 0.5, top), rotation=90, va="top", ha="right", fontsize=8, color="#333")
        axis.set_xlabel("decode step")
        axis.set_ylabel("demand misses (pages)")
        return _svg(figure)


def policies(results: Sequence[ReplayResult]) -> str:
    """Hit ratio and moved bytes of each replayed policy."""
    with mpl.rc_context(_STYLE):
        figure, axes = _figure(9.6, 0.55 + 0.42 * len(results), 1, 2)
        names = [r.policy for r in results]
        colours = [COLOURS["learned"] if n.startswith("learned") else "#9aa3ad" for n in names]
        hits = [100 * (1 - r.miss_ratio) for r in results]
        _bars(axes[0, 0], names, hits, colours, "hit ratio (%)", "{:.2f}", least=min(hits) - (100 - min(hits)) * 0.4)
        _bars(axes[0, 1], names, [r.moved_bytes / 1e6 for r in results], colours, "moved (MB)", "{:.1f}")
        return _svg(figure)


def _bars(
    axis: Any, names: list[str], values: list[float], colours: list[str], label: str, form: str, least: float = 0.0
) -> None:
    bars = axis.barh(names, values, color=colours)
    axis.bar_label(bars, [form.format(v) for v in values], padding=3, fontsize=9)
    axis.invert_yaxis()
    axis.set_xlabel(label)
    axis.set_xlim(least, max(values) + (max(values) - least) * 0.16 + 1e-9)


def lane_film(folder: Path) -> str:
    """Pages over steps for the recorded lanes: resident, selected and missed, as PNG data."""
    with np.load(folder / FILE) as data:
        frames, lanes = data["frames"], data["lanes"]
    palette = np.array([[250, 250, 248], [214, 224, 235], [49, 105, 158], [205, 60, 40]], np.uint8)
    with mpl.rc_context(_STYLE):
        figure, axes = _figure(9.6, 2.3 * len(lanes), len(lanes), 1)
        for i, (layer, head) in enumerate(lanes):
            film = frames[:, i].T
            kind = np.where(film & MISSED, 3, np.where(film & SELECTED, 2, np.where(film & RESIDENT, 1, 0)))
            axis = axes[i, 0]
            axis.imshow(palette[kind], aspect="auto", origin="lower", interpolation="nearest")
            axis.set_ylabel("page")
            axis.set_title(f"layer {layer}, KV head {head}", loc="left", fontsize=10)
        axes[-1, 0].set_xlabel("decode step")
        return _png(figure)


def _svg(figure: Any) -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def _png(figure: Any) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
