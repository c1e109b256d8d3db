"""Draw what replay counted: misses over the size of the pool, or over bytes, one line a policy."""

from __future__ import annotations

import html
import io
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from hotset.predictor.policies.base import PolicyError
from hotset.predictor.replay.run import ReplayResult

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Axis = Literal["ratio", "bytes"]
_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>hotset replay</title>
<style>body {{ font: 15px system-ui, sans-serif; margin: 2em auto; max-width: 70em; }}
td, th {{ padding: .2em .8em; text-align: right; }} svg {{ max-width: 100%; height: auto; }}</style></head>
<body><h1>Replay, {pool} pool</h1>
{svg}
<table><tr>{head}</tr>
{rows}</table></body></html>
"""
_COLUMNS = ("policy", "ratio", "accesses", "demand_misses", "miss_ratio", "gap_closed", "moved_bytes", "stall_seconds")


def check_target(path: Path) -> None:
    """Raise PolicyError unless `path` is a .png or .html file in a folder that exists."""
    if path.suffix not in (".png", ".html"):
        raise PolicyError(f"{path}: a plot is a .png or a .html file")
    if not path.resolve().parent.is_dir():
        raise PolicyError(f"{path}: no such folder as {path.parent}")


def draw(results: Sequence[ReplayResult], path: Path, over: Axis = "ratio") -> None:
    """Write the plot as .png, or as a .html page that needs no other file.

    Over bytes, both axes are relative to LRU, which has to be among the results, and a policy's budgets make its line.
    """
    check_target(path)
    figure = _over_ratio(results) if over == "ratio" else _over_bytes(results)
    if path.suffix == ".png":
        figure.savefig(path, dpi=150)
        return
    svg = io.StringIO()
    figure.savefig(svg, format="svg")
    drawing = svg.getvalue()
    page = _PAGE.format(
        pool=results[0].pool,
        svg=drawing[drawing.index("<svg") :],
        head="".join(f"<th>{name}</th>" for name in _COLUMNS),
        rows="\n".join(_row(result) for result in results),
    )
    path.write_text(page, encoding="utf-8")


def _row(result: ReplayResult) -> str:
    values = [asdict(result)[name] for name in _COLUMNS]
    cells = ["" if v is None else f"{v:.5g}" if isinstance(v, float) else str(v) for v in values]
    return "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in cells) + "</tr>"


def _over_ratio(results: Sequence[ReplayResult]) -> Figure:
    from matplotlib.figure import Figure  # no pyplot: there may be no display

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    for number, policy in enumerate(dict.fromkeys(result.policy for result in results)):
        mine = sorted((r.ratio, r.miss_ratio) for r in results if r.policy == policy)
        style = ("-", "--", ":")[number // 10 % 3]
        axes.plot(*zip(*mine, strict=True), style, marker="o", markersize=3, color=f"C{number % 10}", label=policy)
    axes.set(xlabel="slots a lane / k", ylabel="demand misses / accesses", ylim=(0, None))
    axes.set_title(f"{results[0].pool} pool, {results[0].accesses:,} accesses")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    return figure


def _over_bytes(results: Sequence[ReplayResult]) -> Figure:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    lru = {result.ratio: result for result in results if result.policy == "lru"}
    lines: dict[tuple[str, float], list[tuple[float, float]]] = {}
    for result in results:
        base = lru[result.ratio]
        point = result.moved_bytes / base.moved_bytes, result.demand_misses / base.demand_misses
        lines.setdefault((result.policy.partition("@")[0], result.ratio), []).append(point)
    for number, ((policy, ratio), points) in enumerate(lines.items()):
        label = policy if len(lru) == 1 else f"{policy}, {ratio:g}k"
        axes.plot(*zip(*sorted(points), strict=True), marker="o", markersize=4, color=f"C{number % 10}", label=label)
    axes.set(xlabel="moved bytes / LRU's", ylabel="demand misses / LRU's", ylim=(0, None))
    sizes = ", ".join(f"{ratio:g}k" for ratio in lru)
    axes.set_title(f"{results[0].pool} pool of {sizes}, {results[0].accesses:,} accesses")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    return figure
