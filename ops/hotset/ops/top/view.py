"""Draws the rows of `hotset top`, and the chosen process: a heat strip of its lanes, sparklines of misses and stall."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from hotset.ops.top.watch import Observed

BARS = "▁▂▃▄▅▆▇█"
SHADES = "·░▒▓█"
COLOURS = ("grey39", "#2a9d8f", "#e9c46a", "#f4a261", "#e63946")
MOST_HEADS = 16
Row = dict[str, Any]
Floats = npt.NDArray[np.float64]


class Column(NamedTuple):
    """One column of the table: `rank` says when it goes as the terminal gets narrower (high ones first)."""

    name: str
    width: int
    rank: int
    text: Callable[[Row], str]


def _share(key: str) -> Callable[[Row], str]:
    return lambda row: "-" if row[key] is None else f"{100 * row[key]:.1f}%"


def _rejected(row: Row) -> str:
    return _short(sum(row["entries_rejected"].values()))


COLUMNS = (
    Column("PID", 7, 0, lambda r: str(r["pid"] or "?")),
    Column("MODEL", 14, 3, lambda r: r["model"]),
    Column("CONTROLLER", 20, 7, lambda r: r["controller"]),
    Column("STEP/S", 7, 1, lambda r: f"{r['steps_per_second']:.1f}"),
    Column("TOK/S", 7, 4, lambda r: f"{r['tokens_per_second']:.1f}"),
    Column("RUN/PSE/WAIT", 12, 5, lambda r: f"{r['running']}/{r['paused']}/{r['waiting']}"),
    Column("HIT", 6, 0, _share("hit_ratio")),
    Column("STALL", 6, 2, _share("stall_share")),
    Column("LINK", 8, 6, lambda r: _short(1e9 * r["link_gbps"]) + "B/s"),
    Column("MOVED", 6, 8, lambda r: _short(r["moved_bytes"]) + "B"),
    Column("RESERVE", 7, 9, lambda r: _short(r["reserve"])),
    Column("HOT", 6, 10, lambda r: _short(r["hot_slots"])),
    Column("PLANS", 6, 8, lambda r: _short(r["plans_applied"])),
    Column("REJECTED", 8, 11, _rejected),
    Column("PLANNER", 9, 6, lambda r: r["planner"] or "-"),
    Column("VERSION", 10, 12, lambda r: r["model_version"] or "-"),
)


def screen(rows: Sequence[Row], chosen: Observed | None, width: int, height: int) -> RenderableType:
    """One frame. `height` bounds the part that shows the chosen process."""
    plural = "process" if len(rows) == 1 else "processes"
    head = Text(f"hotset top  {time.strftime('%H:%M:%S')}  {len(rows)} {plural}", style="bold", no_wrap=True)
    head.append("   ↑ ↓ choose, q quits", style="dim")
    head.truncate(width)
    parts: list[RenderableType] = [head, Text()]
    if not rows:
        parts.append(Text("no decode process runs; start one with `hotset decode`"))
        return Group(*parts)
    parts.append(table(rows, chosen.endpoint if chosen else "", width))
    if chosen is not None and chosen.geometry is not None:
        parts += [Text(), *details(chosen, width, height - len(rows) - 5)]
    return Group(*parts)


def table(rows: Sequence[Row], chosen: str, width: int) -> Table:
    """As many columns as fit into `width`."""
    columns = fitting(width)
    drawn = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    for column in columns:
        left = column.name in ("MODEL", "CONTROLLER", "PLANNER", "VERSION")
        drawn.add_column(column.name, justify="left" if left else "right", no_wrap=True, width=column.width)
    for row in rows:
        style = "reverse" if row["endpoint"] == chosen else ""
        cells = [column.text(row) for column in columns]
        if row["trouble"]:
            # What is wrong takes the place of figures that say nothing.
            cells[1:] = [row["trouble"] if i == 0 else "" for i in range(len(cells) - 1)]
            style = style or "yellow"
        drawn.add_row(*cells, style=style)
    return drawn


def fitting(width: int) -> list[Column]:
    """The columns of the lowest ranks that fit side by side, in their order."""
    kept: list[Column] = []
    for column in sorted(COLUMNS, key=lambda c: c.rank):
        if sum(c.width + 1 for c in kept) + column.width <= width:
            kept.append(column)
    return [column for column in COLUMNS if column in kept]


def details(chosen: Observed, width: int, height: int) -> list[RenderableType]:
    """The chosen process: sparklines of misses and stall, then the heat strip, as far as `height` lines go."""
    row, shape = chosen.row, chosen.geometry
    assert shape is not None
    lines: list[RenderableType] = [_title(row, width)]
    if row["device_model"] or row["step_loads"]:
        lines.append(_inside(row, width))
    for name, key in (("misses/step", "misses"), ("stall", "stall_share")):
        values = [_point(past, key) for past in chosen.history]
        lines.append(_series(name, values, key == "misses", width))
    lines.append(Text())
    ratios = np.divide(chosen.missed, chosen.selected, out=np.full(shape.lanes, np.nan), where=chosen.selected > 0)
    lines += heat_strip(ratios.reshape(shape.layers, shape.kv_heads), width, max(1, min(MOST_HEADS, height - 6)))
    return lines[: max(0, height)]


def heat_strip(ratios: Floats, width: int, most_heads: int) -> list[Text]:
    """Miss ratios ([layers, heads], nan: nothing selected) as blocks: a column a layer, a line a head."""
    label = 8
    shrunk = _shrink(_shrink(ratios, max(1, width - label)).T, most_heads).T
    layers, heads = shrunk.shape
    block = 2 if 2 * layers + label <= width else 1
    known = shrunk[np.isfinite(shrunk)]
    top = max(0.02, float(known.max())) if known.size else 0.02
    legend = Text(f"misses by lane, {ratios.shape[0]} layers x {ratios.shape[1]} heads  ")
    for level, colour in enumerate(COLOURS):
        legend.append(SHADES[level] * 2, style=colour)
    legend.append(f" 0 to {100 * top:.0f}%")
    legend.truncate(width)
    lines = [legend]
    for head in range(heads):
        line = Text(f"head {head}".ljust(label) if head == 0 or heads <= 10 else " " * label)
        for ratio in shrunk[:, head]:
            level = 0 if not np.isfinite(ratio) else min(4, int(4 * ratio / top + 0.75))
            line.append(SHADES[level] * block, style=COLOURS[level])
        lines.append(line)
    return lines


def sparkline(values: Sequence[float | None], width: int, top: float) -> str:
    """The last `width` values as bars from 0 to `top`; a blank where there is none."""
    last = list(values)[-width:] if width > 0 else []
    return "".join(" " if v is None else BARS[min(7, int(8 * v / top)) if top > 0 else 0] for v in last)


def _series(name: str, values: Sequence[float | None], counts: bool, width: int) -> Text:
    known = [v for v in values if v is not None]
    top = max(known, default=0.0)
    now = next((v for v in reversed(values) if v is not None), None)
    said = "-" if now is None else _short(now) if counts else f"{100 * now:.1f}%"
    most = _short(top) if counts else f"{100 * top:.0f}%"
    line = Text(f"{name:<12}{said:>7}  ")
    line.append(sparkline(values, min(120, width - 32), top), style="cyan")
    line.append(f"  max {most}", style="dim")
    line.truncate(width)
    return line


def _point(past: Row, key: str) -> float | None:
    if key == "misses":
        return past["demand_misses"] / past["steps"] if past["steps"] else None
    value: float | None = past[key]
    return value


def _title(row: Row, width: int) -> Text:
    said = f"pid {row['pid']}  {row['model']}  step {row['epoch']}  controller: {row['controller']}"
    if row["planner"]:
        said += f"  plans: {row['planner']} {row['model_version']}".rstrip()
    if p99 := row["plan_seconds"].get("0.99"):
        said += f"  plan p99 {1e3 * p99:.1f} ms"
    rejected = ", ".join(
        f"{k} {_short(v)}" for k, v in sorted(row["entries_rejected"].items(), key=lambda i: -i[1])[:3]
    )
    if rejected:
        said += f"  rejected: {rejected}"
    line = Text(said, style="bold", no_wrap=True)
    line.truncate(width, overflow="ellipsis")
    return line


def _inside(row: Row, width: int) -> Text:
    """What is decided inside the step, by which model, and how well."""
    shares = [f"{name} {_share(f'step_{name}')(row)}" for name in ("precision", "coverage")]
    loads = [f"{cause} {_short(row[f'{cause}_loads'])}" for cause in ("demand", "plan", "step")]
    said = (
        f"inside the step: {row['device_model'] or 'no model'}  {'  '.join(shares)}  pages loaded: {', '.join(loads)}"
    )
    line = Text(said, no_wrap=True)
    line.truncate(width, overflow="ellipsis")
    return line


def _shrink(values: Floats, most: int) -> Floats:
    """Fold neighbouring rows into their worst until at most `most` are left."""
    if len(values) <= most:
        return values
    parts = np.array_split(values, most)
    return np.stack([np.where(np.isfinite(p).any(axis=0), np.nan_to_num(p).max(axis=0), np.nan) for p in parts])


def _short(value: float) -> str:
    for unit in ("", "k", "M", "G", "T"):
        if abs(value) < 1000 or unit == "T":
            return f"{value:.0f}{unit}" if unit == "" and value >= 10 else f"{value:.3g}{unit}"
        value /= 1000
    raise AssertionError("unreachable")
