"""`hotset daemon`: the sidecar."""

from __future__ import annotations

import logging
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from hotset.protos.transport import CurveKeys

HELP = """Watch for decode processes on this machine, log what they touch, and steer what they keep.

Attaches to every decode process in the runtime folder, also to those that start later, and plans from the
first step with a heuristic; with --train it trains a model on the log as soon as that is long enough and
plans with it from then on. Ends on Ctrl-C or SIGTERM with its logs complete.

Example:

    hotset daemon --log-dir runs/daemon --train --train-after 200
"""


def register(app: typer.Typer) -> None:
    """Add the command to the `hotset` app."""
    app.command("daemon", help=HELP)(daemon)


def daemon(
    log_dir: Annotated[Path, typer.Option(help="Where each session gets a folder.")] = Path("runs/daemon"),
    model: Annotated[
        str, typer.Option(help="Plan with this model: a folder, or models:/NAME@ALIAS from the registry.")
    ] = "",
    train: Annotated[bool, typer.Option("--train", help="Train on the log, in a child process.")] = False,
    train_after: Annotated[int, typer.Option(min=1, help="Logged sequence steps before that.")] = 200,
    train_every: Annotated[
        int, typer.Option(min=0, help="Logged sequence steps between later trainings; 0: train once.")
    ] = 0,
    train_argument: Annotated[
        list[str] | None, typer.Option(help="Passed on to the training job; may be repeated.")
    ] = None,
    swap: Annotated[
        str, typer.Option(help="`promoted`: swap in models that beat the heuristics; `always`: any.")
    ] = "promoted",
    pid: Annotated[int | None, typer.Option(help="Serve only this process, and end with it.")] = None,
    once: Annotated[bool, typer.Option("--once", help="End when the sessions found have ended.")] = False,
    link_gbps: Annotated[
        float | None, typer.Option(help="Rate of the host link in 10^9 bytes/s; default: measured.")
    ] = None,
    flush_seconds: Annotated[float, typer.Option(help="A killed daemon loses at most so much of its log.")] = 10.0,
    metrics_port: Annotated[
        int | None, typer.Option(help="Serve Prometheus metrics on this port of localhost.")
    ] = None,
) -> None:
    """See HELP."""
    run_daemon(
        log_dir=log_dir,
        model=resolve_model(model),
        train=train,
        train_after=train_after,
        train_every=train_every,
        train_arguments=tuple(train_argument or ()),
        swap=swap,
        pid=pid,
        once=once,
        link_gbps=link_gbps,
        flush_seconds=flush_seconds,
        metrics_port=metrics_port,
    )


def run_daemon(**options: Any) -> None:
    """Run a daemon with `DaemonConfig` options until it is done or told to stop."""
    from pydantic import ValidationError

    from hotset.daemon.config import DaemonConfig
    from hotset.daemon.server import Daemon
    from hotset.protos.errors import ConfigError

    try:
        config = DaemonConfig(**options)
    except ValidationError as error:
        first = error.errors()[0]
        name = "--" + str(first["loc"][0]).replace("_", "-")
        raise ConfigError(f"{name}: {first['msg']}") from None
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s level=%(levelname)s %(message)s")
    server = Daemon(config)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: server.stop())
    server.serve()


def resolve_model(name: str) -> Path | None:
    """A model folder from a path or a registry name; None if nothing was named."""
    if not name:
        return None
    if not name.startswith("models:"):
        return Path(name)
    from hotset.training.registry import resolve_model as resolve

    return resolve(name)


def load_keys(folder: Path | None) -> CurveKeys | None:
    """A client's CURVE keys: `client.key_secret` and the runtime's `server.key` in `folder`."""
    if folder is None:
        return None
    from hotset.protos.transport import CurveKeys

    return CurveKeys.load(folder / "client.key_secret", [folder / "server.key"])
