"""`hotset demo`: the whole path on a real model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

HELP = """Watch a real model decode over a cold tier while a sidecar attaches, learns and cuts its misses.

Starts a decode process and, while it runs, a daemon; trains on what was logged, swaps the model in, goes on.
Ends with summary.json and report.html in runs/<time>/. A few minutes on two cores.

Example: hotset demo
"""


def register(app: typer.Typer) -> None:
    """Add the command to the `hotset` app."""
    app.command("demo", help=HELP)(demo)


def demo(
    runs: Annotated[Path, typer.Option(help="folder that gets a folder for this run")] = Path("runs"),
    model: Annotated[Path | None, typer.Option(help="another checkpoint folder or .gguf file")] = None,
    sequences: Annotated[int, typer.Option(min=1, help="sequences decoded at once")] = 3,
    context: Annotated[int, typer.Option(min=256, help="prompt tokens of each sequence")] = 4096,
    hbm_fraction: Annotated[float, typer.Option(help="hot pool as a share of the KV")] = 0.135,
    learned_steps: Annotated[int, typer.Option(min=1, help="steps to go on with the model")] = 40,
    most_steps: Annotated[
        int, typer.Option(min=1, help="decode no longer than this, however long training takes")
    ] = 800,
    link_gbps: Annotated[
        float | None, typer.Option(help="slow the host link to this many GB/s [default: as fast as it is]")
    ] = None,
    seed: Annotated[int, typer.Option(help="of sampling and training")] = 0,
) -> None:
    """See HELP."""
    from rich.console import Console

    from hotset.ops.demo.run import DemoOptions, run_demo

    console = Console()
    options = DemoOptions(
        runs=runs,
        model=model,
        sequences=sequences,
        context=context,
        hbm_fraction=hbm_fraction,
        learned_steps=learned_steps,
        most_steps=most_steps,
        link_gbps=link_gbps,
        seed=seed,
    )
    show_summary(run_demo(options, console), console)


def show_summary(summary: dict[str, Any], console: Any) -> None:
    """A few lines for people: miss ratio by phase, replay, tokens, where to look."""
    from rich.table import Table

    table = Table("phase", "steps", "demand misses", "miss ratio", box=None, pad_edge=False)
    for name, phase in summary["phases"].items():
        ratio = "–" if phase["miss_ratio"] is None else f"{phase['miss_ratio']:.2%}"
        table.add_row(name, str(phase["steps"]), str(phase["demand_misses"]), ratio)
    console.print(table)
    for result in summary["replay"]:
        gap = "" if result["gap_closed"] is None else f", {result['gap_closed']:.0%} of the gap LRU to Belady closed"
        console.print(f"replay {result['policy']:<18} {result['miss_ratio']:.2%} missed{gap}")
    console.print(f"tokens identical to untiered: {summary['tokens_identical_to_untiered']}")
    console.print(f"report: {summary['report']}", soft_wrap=True)
