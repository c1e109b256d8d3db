"""`hotset play`: an engine without a model, from a recorded trace."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

HELP = """Play a recorded trace as if it were decoded now, so that daemons can attach to it and steer it.

For trying out a daemon, for tests and for load: the process appears in `hotset ps`, and its pool of slots
obeys plans. TRACE is a Parquet file or a folder of parts. If it recorded a lookahead, the process sends that too, takes
models for the inside of its steps, and decides by them.

Example:

    hotset play runs/today/trace --speed 50
"""


def register(app: typer.Typer) -> None:
    """Add the command to the `hotset` app."""
    app.command("play", help=HELP)(play)


def play(
    trace: Annotated[Path, typer.Argument(help="What to play.")],
    ratio: Annotated[float, typer.Option(min=1.0, help="Pool size, in selections of all lanes.")] = 2.0,
    speed: Annotated[float, typer.Option(min=0, help="Steps a second; 0: as fast as possible.")] = 20.0,
    times: Annotated[int, typer.Option(min=1, help="Play it so many times, as new sequences.")] = 1,
    sequences: Annotated[int, typer.Option(min=0, help="Play only the first so many; 0: all.")] = 0,
    check: Annotated[bool, typer.Option("--check", help="Check the pool's integrity after every step.")] = False,
    listen_tcp: Annotated[
        str | None, typer.Option(help="Listen at this tcp:// endpoint; needs --keys. Default: a private socket.")
    ] = None,
    keys: Annotated[Path | None, typer.Option(help="Folder made by `hotset keys`, with server.key_secret.")] = None,
) -> None:
    """See HELP."""
    import json
    from dataclasses import asdict

    from hotset.ops.listening import listening
    from hotset.ops.play import InsideStep, TracePlayer, geometry_of
    from hotset.predictor.trace import open_trace
    from hotset.runtime.link import ControlLink

    reader = open_trace(trace)
    chosen = [reader.read(i) for i in reader.sequence_ids[: sequences or None]]
    geometry = geometry_of(reader.meta, chosen, ratio)
    where = listening(listen_tcp, keys)
    inside, name = InsideStep(reader.meta, chosen), reader.meta.model or trace.name
    with ControlLink(
        model=name, geometry=geometry, builtin_policy="lru", in_step=inside.in_step, **where
    ) as link:  # fmt: skip
        typer.echo(f"playing at {link.endpoint}", err=True)
        player = TracePlayer(reader.meta, chosen, link, geometry, times, inside)
        start = time.monotonic()
        while player.step():
            if check:
                player.pool.check_integrity()
            if speed:
                time.sleep(max(0.0, start + player.played.steps / speed - time.monotonic()))
    typer.echo(json.dumps(asdict(player.played)))
