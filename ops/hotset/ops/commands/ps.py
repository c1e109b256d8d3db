"""`hotset ps`: the decode processes that run."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hotset.ops.commands.daemon import load_keys

if TYPE_CHECKING:
    from hotset.ops.runtimes import Answer
    from hotset.protos.messages import Geometry

HELP = """List this user's decode processes, and who controls them.

Files that killed processes left behind are cleaned up on the way. With a TARGET (a pid or an endpoint), only
that one; the exit code is 7 if it does not answer.

Example:

    hotset ps
    hotset ps tcp://node7:5757 --keys keys
"""


def register(app: typer.Typer) -> None:
    """Add the command to the `hotset` app."""
    app.command("ps", help=HELP)(ps)


def ps(
    target: Annotated[str | None, typer.Argument(help="A pid or an endpoint; default: all of this user.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON array, for programs.")] = False,
    keys: Annotated[Path | None, typer.Option(help="Folder with client.key_secret and server.key, for tcp://.")] = None,
) -> None:
    """See HELP."""
    import json

    from rich.console import Console
    from rich.table import Table

    rows = _all(keys) if target is None else [_one(target, keys)]
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
        age = "?" if row["age_seconds"] is None else _age(row["age_seconds"])
        seen = [row[name] for name in ("pid", "model", "sequences", "geometry")]
        table.add_row(*map(str, seen), row["trouble"] or row["controller"], age)
    Console(soft_wrap=True).print(table)


def _all(keys: Path | None) -> list[dict[str, Any]]:
    from hotset.ops import runtimes

    entries = runtimes.running()
    answers = runtimes.inspect([entry.endpoint for entry in entries], load_keys(keys))
    rows = []
    for entry, answer in zip(entries, answers, strict=True):
        row = _row(entry.endpoint, entry.geometry, answer)
        about = {"pid": entry.pid, "session": entry.session, "model": entry.model}
        rows.append(row | about | {"age_seconds": round(time.time() - entry.started, 1)})
    return rows


def _one(target: str, keys: Path | None) -> dict[str, Any]:
    from hotset.ops import runtimes

    with runtimes.observing(target, load_keys(keys)) as (_, hello):
        row = _row(runtimes.endpoint_of(target), hello.geometry, runtimes.Answer(hello))
        return row | {"pid": hello.pid, "session": hello.session, "model": hello.model, "age_seconds": None}


def _row(endpoint: str, shape: Geometry, answer: Answer) -> dict[str, Any]:
    hello = answer.hello
    return {
        "endpoint": endpoint,
        "sequences": hello.sequences if hello else "?",
        "geometry": f"{shape.layers}x{shape.kv_heads} lanes, {shape.page_size}-token pages, "
        f"k={shape.selected}, {shape.slots} slots",
        "controller": (hello.holder or "none") if hello else "does not answer",
        "trouble": answer.trouble,
    }


def _age(seconds: float) -> str:
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= size:
            return f"{seconds / size:.0f}{unit}"
    return f"{max(0.0, seconds):.0f}s"
