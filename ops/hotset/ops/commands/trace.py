"""`hotset trace`: import recorded traces, and look into trace logs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from hotset.predictor.trace import TraceInfo

_HELP = """Import recorded traces into the trace log format, and look into logs.

Example: hotset trace info runs/today/log
"""
_IMPORT = """Import npz traces (arrays did, sel, score, meta, and spec for lookahead) as one trace log.

Each SRC becomes one sequence. DST becomes a single file if it ends in .parquet, else a folder with a part a source.

Example: hotset trace import traces/code-*.npz code.parquet
"""
_INFO = """Read a trace log through and say what it holds.

Example: hotset trace info code.parquet
"""


def register(app: typer.Typer) -> None:
    """Add `trace` to the command line."""
    commands = typer.Typer(help=_HELP, no_args_is_help=True)
    commands.command("import", help=_IMPORT)(import_)
    commands.command("info", help=_INFO)(info)
    app.add_typer(commands, name="trace")


def import_(
    paths: Annotated[list[Path], typer.Argument(metavar="SRC.npz... DST", help="sources, then the log to write")],
    token_bytes: Annotated[
        int, typer.Option(min=1, help="K and V bytes of a token in one lane; sources do not say")
    ] = 256,
) -> None:
    from hotset.predictor.trace import import_npz
    from hotset.protos.errors import TraceError

    *sources, destination = paths
    if not sources:
        raise TraceError(f"{destination}: name at least one source, then the log to write")
    meta = import_npz(sources, destination, token_bytes=token_bytes)
    typer.echo(
        f"{destination}: {len(meta.prompt_tokens)} sequences of {meta.model}, {meta.layers * meta.kv_heads} lanes"
    )


def info(
    traces: Annotated[list[Path], typer.Argument(metavar="TRACE...", help="trace logs: files or folders of parts")],
    as_json: Annotated[bool, typer.Option("--json", help="one JSON object a trace and line")] = False,
) -> None:
    import json
    from dataclasses import asdict

    from hotset.predictor.trace import open_trace, trace_info

    for path in traces:
        found = trace_info(open_trace(path))
        if as_json:
            typer.echo(json.dumps(asdict(found) | {"meta": found.meta.model_dump()}))
        else:
            _print(found)


def _print(found: TraceInfo) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    meta = found.meta
    typer.echo(f"{found.path}: {meta.model} {meta.kind} {meta.source}".rstrip())
    typer.echo(
        f"{meta.layers} layers x {meta.kv_heads} KV heads, pages of {meta.page_size} tokens ({meta.page_bytes} bytes),"
        f" {meta.selected} of {meta.candidates} candidates selected, {found.bytes_on_disk} bytes on disk"
    )
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for column in ("sequence", "prompt", "steps", "lost", "length", "pages", "accesses", "overlap", "lookahead"):
        table.add_column(column, justify="right", no_wrap=True)
    for s in found.sequences:
        overlap = "" if s.overlap is None else f"{s.overlap:.1%}"
        numbers = (s.sequence, s.prompt_tokens, s.steps, s.gaps, s.last_length, s.pages, s.accesses)
        table.add_row(*map(str, numbers), overlap, ",".join(map(str, s.lookahead)))
    Console().print(table)
