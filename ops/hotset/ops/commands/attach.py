"""`hotset attach`: watch one decode process, or control it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hotset.ops.commands.daemon import load_keys, run_daemon

if TYPE_CHECKING:
    from hotset.daemon.connection import Connection
    from hotset.protos.messages import Hello

GONE_SECONDS = 5.0
HELP = """Watch a decode process: one line a second, read-only. With --control, steer it as `hotset daemon` would.

TARGET is a pid from `hotset ps` or an endpoint; tcp:// endpoints need --keys.

Example:

    hotset attach 4711
    hotset attach 4711 --control
"""


def register(app: typer.Typer) -> None:
    """Add the command to the `hotset` app."""
    app.command("attach", help=HELP)(attach)


def attach(
    target: Annotated[str, typer.Argument(help="A pid or an endpoint.")],
    control: Annotated[bool, typer.Option("--control", help="Take the lease and plan.")] = False,
    log_dir: Annotated[Path, typer.Option(help="With --control: where the log goes.")] = Path("runs/daemon"),
    keys: Annotated[Path | None, typer.Option(help="Folder with client.key_secret and server.key, for tcp://.")] = None,
    every: Annotated[float, typer.Option(min=0.1, help="Seconds between lines.")] = 1.0,
    lines: Annotated[int, typer.Option(min=0, help="Stop after so many lines; 0: go on.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="A JSON object a line, for programs.")] = False,
) -> None:
    """See HELP."""
    import json

    from hotset.ops import runtimes

    if control:
        whom = {"pid": target} if target.isdigit() else {"endpoint": runtimes.endpoint_of(target)}
        run_daemon({"log_dir": log_dir, **whom} | ({"keys": keys} if keys else {}))
        return
    with suppress(KeyboardInterrupt), runtimes.observing(target, load_keys(keys)) as (connection, hello):
        if not as_json:
            typer.echo(f"pid {hello.pid}, {hello.model}, {hello.sequences} sequences; "
                       f"controller: {hello.holder or 'none'}")  # fmt: skip
        for printed, row in enumerate(_watch(connection, hello, every), start=1):
            typer.echo(json.dumps(row) if as_json else _line(row))
            if printed == lines:
                return
        typer.echo(f"process {hello.pid} has ended", err=as_json)


def _watch(connection: Connection, hello: Hello, every: float) -> Iterator[dict[str, Any]]:
    """One row an interval in which the process stepped, until it is gone."""
    from hotset.ops.top.window import Window
    from hotset.protos.messages import Step

    window, due, heard = Window(hello.geometry.lanes), time.monotonic() + every, time.monotonic()
    while True:
        received = connection.receive(max(0.0, due - time.monotonic()))
        if received is not None:
            heard = time.monotonic()
            window.lost += received.missing
            if isinstance(received.message, Step):
                window.add(received.message)
        if time.monotonic() < due:
            continue
        if window.last is not None:
            stats = window.last.stats
            about = {"epoch": window.last.epoch, "sequences": len(window.last.sequences), "reserve": stats.reserve}
            moved = {"moved_bytes": window.moved_bytes, "plans_applied": stats.plans_applied}
            yield about | window.summary(every) | moved
        elif time.monotonic() - heard > GONE_SECONDS:
            return
        else:
            connection.attach("observer")  # whoever is there answers
        window, due = Window(hello.geometry.lanes), time.monotonic() + every


def _line(row: dict[str, Any]) -> str:
    return (
        f"step {row['epoch']:>7}  {row['steps_per_second']:6.1f}/s  sequences {row['sequences']}  "
        f"hits {100 * (row['hit_ratio'] or 0):5.1f}%  by prefetch {row['prefetched_hits']:>5}  "
        f"moved {row['moved_bytes'] / 1e6:8.2f} MB  stall {100 * (row['stall_share'] or 0):4.1f}%  "
        f"reserve {row['reserve']}  plans {row['plans_applied']}" + (f"  lost {row['lost']}" if row["lost"] else "")
    )
