"""The report's pictures, as SVG text or PNG data, with nothing fetched from anywhere."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import numpy.typing as npt

from hotset.ops.report.collect import Run
from hotset.ops.run_folder import LANES_FILE, MISSED, RESIDENT, SELECTED
from hotset.predictor.replay import ReplayResult

COLOURS = {"builtin": "#7a828e", "heuristic": "#c98a1b", "learned": "#1f7a5c"}
NAMES = {"builtin": "built-in (LRU)", "heuristic": "heuristic", "learned": "learned model"}
_EVENTS = {"attach": "daemon attaches", "training_started": "training begins", "swap": "model swapped in"}
_STYLE: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    # Outlines: the reader's browser may lack the font for which the places were reckoned.
    "svg.fonttype": "path",
}


def _figure(
    width: float, height: float, rows: int = 1, columns: int = 1, heights: Sequence[float] | None = None
) -> tuple[Any, Any]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, squeeze=False, sharex="col", height_ratios=heights)


def misses_over_time(run: Run) -> str:
    """Demand misses of every step, coloured by who steered; below, who planned and when a model was trained."""
    with mpl.rc_context(_STYLE):
        return _svg(draw_misses(run))


def draw_misses(run: Run) -> Any:
    """The figure of `misses_over_time`. No text of it lies on data or on other text, whatever the lengths of phases."""
    figure, axes = _figure(9.6, 4.2, 2, heights=(6, 1))
    axis, strip = axes[:, 0]
    epochs = np.array([s["epoch"] for s in run.steps])
    misses = np.array([s["demand_misses"] for s in run.steps])
    phases = np.array([run.phase_of(s) for s in run.steps])
    for phase, colour in COLOURS.items():
        here = phases == phase
        if here.any():
            median = float(np.median(misses[here]))
            label = f"{NAMES[phase]}: median {median:,.0f} a step"
            axis.bar(epochs[here], misses[here], width=1.0, color=colour, alpha=0.45, linewidth=0, label=label)
            for start, stop in _stretches(epochs[here]):
                axis.hlines(median, start, stop, color=colour, linewidth=2)
                strip.barh(0, stop - start, left=start, color=colour, height=0.8)
    axis.set_xlim(epochs[0] - 0.5, epochs[-1] + 0.5)
    axis.set_ylim(0, float(misses.max()) * 1.35 + 1)
    axis.set_ylabel("demand misses (pages a step)")
    shown = [colour for phase, colour in COLOURS.items() if (phases == phase).any()]
    axis.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3, frameon=False, labelcolor=shown, borderpad=0)
    _events(run, axis, strip)
    _training(run, strip)
    strip.set_xlabel("decode step")
    return figure


def _stretches(epochs: npt.NDArray[np.int64]) -> list[tuple[float, float]]:
    """Runs of neighbouring steps, each from its left border to its right one."""
    breaks = np.flatnonzero(np.diff(epochs) > 1) + 1
    return [(float(part[0]) - 0.5, float(part[-1]) + 0.5) for part in np.split(epochs, breaks)]


def _events(run: Run, axis: Any, strip: Any) -> None:
    """Dotted lines with a word each, on lines of their own above the bars, so that near events don't collide."""
    (left, right), top = axis.get_xlim(), axis.get_ylim()[1]
    for line, (name, text) in enumerate(_EVENTS.items()):
        if (epoch := run.epoch(name)) is not None:
            axis.vlines(epoch + 0.5, 0, top * (0.99 - 0.08 * line), color="#333", linewidth=0.8, linestyle=":")
            strip.axvline(epoch + 0.5, color="#333", linewidth=0.8, linestyle=":")
            late = epoch > left + 0.7 * (right - left)
            axis.annotate(f"{text}, step {epoch}", (epoch + 0.5, top * (0.99 - 0.08 * line)), va="top",
                          ha="right" if late else "left", xytext=(-4 if late else 4, 0),
                          textcoords="offset points", fontsize=9, color="#333")  # fmt: skip


def _training(run: Run, strip: Any) -> None:
    begin, end = run.epoch("training_started"), run.epoch("training_finished")
    if begin is not None:
        stop = run.steps[-1]["epoch"] if end is None else end
        strip.barh(1, stop - begin, left=begin + 0.5, color="#5b6f95", height=0.8)
    strip.set_yticks([0, 1], ["plans by", "trains"])
    strip.invert_yaxis()
    strip.spines["left"].set_visible(False)
    strip.tick_params(axis="y", length=0)


def policies(results: Sequence[ReplayResult]) -> str:
    """Misses and moved bytes of each replayed policy."""
    with mpl.rc_context(_STYLE):
        return _svg(draw_policies(results))


def draw_policies(results: Sequence[ReplayResult]) -> Any:
    """The figure of `policies`: both axes begin at nothing, so that lengths can be compared."""
    figure, axes = _figure(9.6, 0.7 + 0.36 * len(results), 1, 2)
    names = [r.policy for r in results]
    colours = [COLOURS["learned"] if n.startswith("learned") else "#9aa3ad" for n in names]
    _bars(axes[0, 0], names, [100 * r.miss_ratio for r in results], colours, "demand misses (% of accesses)", "{:.2f}")
    _bars(axes[0, 1], names, [r.moved_bytes / 1e6 for r in results], colours, "moved over the link (MB)", "{:,.0f}")
    axes[0, 1].tick_params(axis="y", labelleft=False)
    return figure


def _bars(axis: Any, names: list[str], values: list[float], colours: list[str], label: str, form: str) -> None:
    bars = axis.barh(names, values, color=colours)
    axis.bar_label(bars, [form.format(v) for v in values], padding=3, fontsize=9)
    axis.invert_yaxis()
    axis.set_xlabel(label)
    axis.set_xlim(0, max(values) * 1.14 + 1e-9)


def lane_film(folder: Path) -> str:
    """Pages over steps for the recorded lanes: resident, selected and missed, as PNG data."""
    with np.load(folder / LANES_FILE) as data:
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
