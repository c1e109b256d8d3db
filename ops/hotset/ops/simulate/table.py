"""Reports as a table for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

COLUMNS = ("tok/s", "stall", "step ms", "p99", "tok ms", "miss", "fetched", "GB")
_HEADS = {"concurrency": "batch", "link_gbps": "GB/s", "hbm_gib": "GiB", "link_latency_us": "latency"}


def print_table(reports: Sequence[Mapping[str, Any]], axes: Sequence[str], console: Console | None = None) -> None:
    """One row a report; `axes` are what they differ in."""
    names = list(dict.fromkeys([*axes, "concurrency", "slots", "policy"]))
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in names:
        table.add_column(_HEADS.get(name, name.replace("_", " ")), no_wrap=True)
    for column in COLUMNS:
        table.add_column(column, justify="right", no_wrap=True)
    for report in reports:
        head = [_short(report.get(name, report.get("asked", {}).get(name))) for name in names]
        if report.get("controller"):
            head[names.index("policy")] += " + controller"
        table.add_row(*head, *_cells(report))
    console = console or Console(width=max(110, Console().width))
    console.print(table)
    for gib, fit, rate in dict.fromkeys(
        (r["hbm_gib"], r["whole_sequences"], r["whole_tokens_per_second"])
        for r in reports if r.get("whole_sequences") is not None
    ):  # fmt: skip
        told = f"{rate:.0f} tok/s without a stall" if fit else "not one sequence fits"
        console.print(f"with all KV in {gib:.4g} GiB: batch {fit}, {told}", highlight=False)
    for report in reports:
        if "error" in report:
            console.print(f"{_where(report, names)}: {report['error']}", markup=False, soft_wrap=True)


def print_real(found: Mapping[str, Any], console: Console | None = None) -> None:
    """A real run beside its simulation; `found` is what real.compare returns."""
    console = console or Console()
    gbps = "as measured" if found["link_measured"] else "as given"
    console.print(
        f"policy {found['policy']} over {found['builtin']}, {found['slots']} slots; {found['steps']} steps compared, "
        f"{found['calibrated']} others calibrate:\n"
        f"compute {found['step_us'] / 1e3:.4g} ms + {found['sequence_us'] / 1e3:.3g} a sequence; "
        f"a layer that misses waits {found['batch_us']:.0f} us + {found['page_us']:.2f} a page ({gbps})",
        soft_wrap=True, highlight=False,
    )  # fmt: skip
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in ("", "real", "simulated", "error"):
        table.add_column(name, justify="left" if not name else "right", no_wrap=True)
    for name, row in found["figures"].items():
        error = "" if row["error"] is None else f"{row['error']:+.1%}"
        table.add_row(name.replace("_", " "), f"{row['real']:.6g}", f"{row['simulated']:.6g}", error)
    console.print(table)


def _cells(r: Mapping[str, Any]) -> list[str]:
    if "error" in r:
        return ["no room", *[""] * (len(COLUMNS) - 1)]
    return [
        f"{r['tokens_per_second']:.0f}",
        f"{r['stall_share']:.1%}",
        f"{r['step_ms']['p50']:.2f}",
        f"{r['step_ms']['p99']:.2f}",
        f"{r['token_ms']['p50']:.2f}",
        f"{r['miss_ratio']:.1%}",
        str(r["prefetched_pages"]),
        f"{r['moved_bytes'] / 1e9:.2f}",
    ]


def _short(value: object) -> str:
    return "" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def _where(report: Mapping[str, Any], names: Sequence[str]) -> str:
    return ", ".join(f"{name} {_short(report[name])}" for name in names if report.get(name) is not None)
