"""`hotset top`: decode processes, live."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hotset.ops.commands.daemon import load_keys

if TYPE_CHECKING:
    from hotset.ops.top.watch import Watcher

HELP = """Watch all decode processes, live: hits, stall, link, plans, and the lanes of one of them.

Attaches read-only, beside any daemon and any other `hotset top`. What the daemon knows (who plans, which
model) comes from the status files below --log-dir. Keys: up and down (or k and j) choose a process, q quits.

Example:

    hotset top
    hotset top --once --json
"""


def register(app: typer.Typer) -> None:
    """Add the command to the `hotset` app."""
    app.command("top", help=HELP)(top)


def top(
    target: Annotated[list[str] | None, typer.Argument(help="Pids or endpoints; default: all of this user.")] = None,
    every: Annotated[float, typer.Option(min=0.1, max=60, help="Seconds between frames.")] = 1.0,
    once: Annotated[bool, typer.Option("--once", help="Watch for one interval, print it, and end.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON array of rows an interval, a line each.")] = False,
    log_dir: Annotated[Path, typer.Option(help="Where a daemon logs.")] = Path("runs/daemon"),
    keys: Annotated[Path | None, typer.Option(help="Folder with client.key_secret and server.key, for tcp://.")] = None,
) -> None:
    """See HELP."""
    import sys

    from hotset.ops import runtimes
    from hotset.ops.top.watch import Watcher
    from hotset.protos.errors import ConfigError

    if not (once or as_json or sys.stdout.isatty()):
        raise ConfigError("the output is no terminal; use --once or --json")
    watcher = Watcher([runtimes.endpoint_of(one) for one in target or ()], load_keys(keys), log_dir)
    try:
        if once or as_json:
            _print(watcher, every, once, as_json)
        else:
            _live(watcher, every)
    except KeyboardInterrupt:
        pass
    finally:
        watcher.close()


def _print(watcher: Watcher, every: float, once: bool, as_json: bool) -> None:
    import json
    import time

    from rich.console import Console

    from hotset.ops.top.view import screen

    while True:
        end = time.monotonic() + every
        while time.monotonic() < end:
            watcher.poll()
            time.sleep(min(0.05, every / 4))
        rows = watcher.cut()
        if as_json:
            typer.echo(json.dumps(rows))
        else:
            console = Console()
            console.print(screen(rows, next(iter(watcher.observed.values()), None), console.width, 100))
        if once:
            return


def _live(watcher: Watcher, every: float) -> None:
    import time

    from rich.console import Console
    from rich.live import Live

    from hotset.ops.top.keyboard import Keyboard
    from hotset.ops.top.view import screen

    console, chosen, due = Console(), 0, time.monotonic()
    rows = watcher.cut()
    with Keyboard() as keyboard, Live(console=console, screen=True, auto_refresh=False) as live:
        while (key := keyboard.wait(0.05)) != "q":
            watcher.poll()
            moved = {"up": -1, "k": -1, "down": 1, "j": 1}.get(key, 0)
            chosen = max(0, min(len(watcher.observed) - 1, chosen + moved))
            if time.monotonic() >= due:
                rows, due = watcher.cut(), time.monotonic() + every
            elif not moved:
                continue
            shown = list(watcher.observed.values())
            live.update(screen(rows, shown[chosen] if shown else None, console.width, console.height), refresh=True)
