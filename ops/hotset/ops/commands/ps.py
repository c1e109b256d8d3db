"""`hotset ps`: the decode processes that run."""

from __future__ import annotations

import time
from typing import Annotated

import typer

HELP = """List this user's decode processes, and who controls them.

Files that killed processes left behind are cleaned up on the way.

Example:

    hotset ps
"""


def register(app: typer.Typer) -> None:
    """Add the command to the `hotset` app."""
    app.command("ps", help=HELP)(ps)


def ps(as_json: Annotated[bool, typer.Option("--json", help="One JSON array, for programs.")] = False) -> None:
    """See HELP."""
    import json

    from rich.console import Console
    from rich.table import Table

    rows = _rows()
    if as_json:
        typer.echo(json.dumps(rows, indent=1))
        return
    if not rows:
        typer.echo("no decode process runs; start one with `hotset decode`")
        return
    table = Table(box=None, pad_edge=False)
    for name in ("pid", "model", "sequences", "geometry", "controller", "age"):
        table.add_column(name.upper(), justify="right" if name in ("pid", "sequences", "age") else "left")
    for row in rows:
        table.add_row(*(str(row[name]) for name in ("pid", "model", "sequences")), str(row["geometry"]),
                      str(row["controller"]), _age(float(str(row["age_seconds"]))))  # fmt: skip
    Console(soft_wrap=True).print(table)


def _rows() -> list[dict[str, object]]:
    from hotset.ops import runtimes

    rows: list[dict[str, object]] = []
    for entry in runtimes.running():
        hello, shape = runtimes.inspect(entry), entry.geometry
        rows.append(
            {
                "pid": entry.pid,
                "session": entry.session,
                "endpoint": entry.endpoint,
                "model": entry.model,
                "sequences": hello.sequences if hello else "?",
                "geometry": f"{shape.layers}x{shape.kv_heads} lanes, {shape.page_size}-token pages, "
                f"k={shape.selected}, {shape.slots} slots",
                "controller": (hello.holder or "none") if hello else "does not answer",
                "age_seconds": round(time.time() - entry.started, 1),
            }
        )
    return rows


def _age(seconds: float) -> str:
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= size:
            return f"{seconds / size:.0f}{unit}"
    return f"{max(0.0, seconds):.0f}s"
