"""`hotset attach`: watch one decode process, or control it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hotset.ops.commands.daemon import load_keys, run_daemon

if TYPE_CHECKING:
    from hotset.daemon.connection import Connection
    from hotset.protos.messages import Step

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
) -> None:
    """See HELP."""
    from hotset.ops import runtimes

    endpoint = runtimes.endpoint_of(target)
    if control:
        whom = {"pid": target} if target.isdigit() else {"endpoint": endpoint}
        run_daemon({"log_dir": log_dir, **whom} | ({"keys": keys} if keys else {}))
        return
    connection = runtimes.connect(endpoint, load_keys(keys))
    try:
        hello = runtimes.greet(connection, endpoint)
        typer.echo(f"pid {hello.pid}, {hello.model}, {hello.sequences} sequences; "
                   f"controller: {hello.holder or 'none'}")  # fmt: skip
        _watch(connection, every, lines, target)
    except KeyboardInterrupt:
        pass
    finally:
        from hotset.protos.messages import Detach

        connection.send(Detach(reason="stopped watching"))
        connection.close()


def _watch(connection: Connection, every: float, lines: int, target: str) -> None:
    from hotset.ops import runtimes
    from hotset.protos.messages import Step

    steps: list[Step] = []
    lost, printed, due = 0, 0, time.monotonic() + every
    while not lines or printed < lines:
        received = connection.receive(max(0.0, due - time.monotonic()))
        if received is not None:
            lost += received.missing
            if isinstance(received.message, Step):
                steps.append(received.message)
        if time.monotonic() < due:
            continue
        if steps:
            typer.echo(_line(steps, lost, every))
            printed += 1
        elif target.isdigit() and not any(e.pid == int(target) for e in runtimes.running()):
            typer.echo(f"process {target} has ended")
            return
        steps, lost, due = [], 0, time.monotonic() + every


def _line(steps: list[Step], lost: int, seconds: float) -> str:
    import numpy as np

    from hotset.protos.messages import AccessFlag

    flags = np.concatenate([s.flags.ravel() for s in steps])
    selected, hits, prefetched = (
        int(np.count_nonzero(flags & bit)) for bit in (AccessFlag.SELECTED, AccessFlag.HIT, AccessFlag.PREFETCHED)
    )
    last, stats = steps[-1], [s.stats for s in steps]
    took = sum(s.step_us for s in stats)
    return (
        f"step {last.epoch:>7}  {len(steps) / seconds:6.1f}/s  sequences {len(last.sequences)}  "
        f"hits {100 * hits / max(1, selected):5.1f}%  by prefetch {prefetched:>5}  "
        f"moved {sum(s.moved_bytes for s in stats) / 1e6:8.2f} MB  "
        f"stall {100 * sum(s.stall_us for s in stats) / max(1, took):4.1f}%  "
        f"reserve {last.stats.reserve}  plans {last.stats.plans_applied}" + (f"  lost {lost}" if lost else "")
    )
