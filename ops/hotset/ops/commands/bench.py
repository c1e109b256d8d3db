"""`hotset bench`: measure the GPU kernels on this machine."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

HELP = """Measure the GPU kernels in captured graphs: swap-in, resolve, attend or forest. Prints Markdown.

Example: hotset bench swap-in

Another example: hotset bench resolve --json resolve.json --markdown resolve.md
"""


class Suite(StrEnum):
    """What can be measured."""

    SWAP_IN = "swap-in"
    RESOLVE = "resolve"
    ATTEND = "attend"
    FOREST = "forest"


def register(app: typer.Typer) -> None:
    """Add `bench` to the command line."""
    app.command("bench", help=HELP)(bench)


def bench(
    suite: Annotated[Suite, typer.Argument(help="Which kernels.")],
    json_to: Annotated[Path | None, typer.Option("--json", help="Write the figures here, too.")] = None,
    markdown_to: Annotated[Path | None, typer.Option("--markdown", help="Write the tables here, too.")] = None,
) -> None:
    """See HELP."""
    from hotset.kernels import suite as suites

    report = suites.run(suite.value)
    if suite is Suite.FOREST:
        from hotset.ops import boosters

        report["tables"]["Beside LightGBM on the processor"] = boosters.run()
    text = suites.to_markdown(report)
    if json_to is not None:
        json_to.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    if markdown_to is not None:
        markdown_to.write_text(text, encoding="utf-8")
    typer.echo(text)
