"""`hotset report`: a run's summary and page, drawn again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

HELP = """Write summary.json and report.html of a demo run again, from what the run left in its folder.

Example: hotset report runs/20260101-120000
"""


def register(app: typer.Typer) -> None:
    """Add the command to the `hotset` app."""
    app.command("report", help=HELP)(report)


def report(folder: Annotated[Path, typer.Argument(help="a folder below runs/")]) -> None:
    """See HELP."""
    from rich.console import Console

    from hotset.ops.commands.demo import show_summary
    from hotset.ops.report.build import write_report

    console = Console()
    with console.status("replaying the log under other policies and drawing the report"):
        summary = write_report(folder)
    show_summary(summary, console)
