"""Trade-off curves of a sweep: throughput, stall, latency and movement over what was varied."""

from __future__ import annotations

import html
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hotset.protos.errors import ConfigError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>hotset simulate</title>
<style>body {{ font: 15px system-ui, sans-serif; margin: 2em auto; max-width: 75em; }}
td, th {{ padding: .2em .8em; text-align: right; }} svg {{ max-width: 100%; height: auto; }}</style></head>
<body><h1>Simulated node</h1>
{svg}
<table><tr>{head}</tr>
{rows}</table></body></html>
"""
_PANELS = (
    ("tokens_per_second", "tokens a second"),
    ("stall_share", "stall, % of step time"),
    ("token_ms", "ms a token, p50 of sequences"),
    ("moved_per_token", "MB moved a token"),
)
_UNITS = {"hbm_gib": "{} GiB", "link_gbps": "{} GB/s", "concurrency": "batch {}", "ratio": "{} k slots a lane"}
_NAMES = {"concurrency": "batch (sequences at once)", "ratio": "hot slots a lane, over k", "link_gbps": "link, GB/s"}
_DASHES = ("-", "--", ":", "-.")


def check_target(path: Path, axes: Mapping[str, Sequence[Any]]) -> None:
    """Raise ConfigError unless `path` is a .png or .html file in a folder that exists, and something numeric varies."""
    if path.suffix not in (".png", ".html"):
        raise ConfigError(f"{path}: a plot is a .png or a .html file")
    if not path.resolve().parent.is_dir():
        raise ConfigError(f"{path}: no such folder as {path.parent}")
    if _axis(axes) is None:
        raise ConfigError("nothing to plot over; give a --sweep with several numbers, as concurrency=1,2,4,8")


def draw(reports: Sequence[Mapping[str, Any]], axes: Mapping[str, Sequence[Any]], path: Path) -> None:
    """Write the plot as .png, or as a .html page that needs no other file."""
    check_target(path, axes)
    drawn = [r for r in reports if "error" not in r]
    figure = _figure(drawn, axes)
    if path.suffix == ".png":
        figure.savefig(path, dpi=110)
        return
    svg = io.StringIO()
    figure.savefig(svg, format="svg")
    text = svg.getvalue()
    names = [*dict.fromkeys([*axes, "concurrency", "slots", "policy"]), *(name for name, _ in _PANELS)]
    path.write_text(
        _PAGE.format(
            svg=text[text.index("<svg") :],
            head="".join(f"<th>{name}</th>" for name in names),
            rows="\n".join(_row([_value(r, name) for name in names]) for r in drawn),
        ),
        encoding="utf-8",
    )


def _row(values: Sequence[object]) -> str:
    cells = ["" if v is None else f"{v:.5g}" if isinstance(v, float) else str(v) for v in values]
    return "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in cells) + "</tr>"


def _axis(axes: Mapping[str, Sequence[Any]]) -> str | None:
    """The first numeric axis with several values."""
    return next((n for n, v in axes.items() if len(v) > 1 and not isinstance(v[0], str)), None)


def _value(report: Mapping[str, Any], name: str) -> Any:
    if name == "token_ms":
        return report["token_ms"]["p50"]
    if name == "stall_share":
        return 100 * report[name]
    if name == "moved_per_token":
        return report["moved_bytes"] / 1e6 / max(1, report["tokens"])
    return report.get(name)


def _figure(reports: Sequence[Mapping[str, Any]], axes: Mapping[str, Sequence[Any]]) -> Figure:
    from matplotlib.figure import Figure  # no pyplot: there may be no display

    across = _axis(axes)
    assert across is not None
    others = [name for name, values in axes.items() if len(values) > 1 and name != across]
    figure = Figure(figsize=(9, 6), layout="constrained")
    lines: dict[str, list[Mapping[str, Any]]] = {}
    for report in reports:
        label = ", ".join(_told(n, report["asked"][n]) for n in others)
        lines.setdefault(label or str(report["policy"]), []).append(report)
    for panel, (name, title) in zip(figure.subplots(2, 2).flat, _PANELS, strict=True):
        for number, (label, found) in enumerate(lines.items()):
            points = sorted((r["asked"][across], _value(r, name)) for r in found)
            # Lines may lie on each other: the dashes of the upper one show the lower.
            dashes = _DASHES[number % len(_DASHES)]
            panel.plot(*zip(*points, strict=True), marker="o", markersize=4, linestyle=dashes, linewidth=2, label=label)
        panel.set(xlabel=_NAMES.get(across, across.replace("_", " ")), title=title, ylim=(0, None))
        panel.grid(alpha=0.3)
        if len({x for r in reports for x in [r["asked"][across]]}) > 3:
            panel.set_xscale("log", base=2)
            panel.set_xticks(values := sorted({r["asked"][across] for r in reports}), [f"{v:g}" for v in values])
            panel.minorticks_off()
    figure.axes[0].legend()
    return figure


def _told(name: str, value: Any) -> str:
    """A line of the legend."""
    if isinstance(value, str):
        return value
    return _UNITS.get(name, name.replace("_", " ") + " {}").format("default" if value is None else f"{value:g}")
