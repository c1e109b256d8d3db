"""`hotset daemon`: the sidecar."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hotset.ops.flags import GroupedCommand, given_flags, with_config_flags

if TYPE_CHECKING:
    from hotset.daemon.settings import Effective
    from hotset.protos.transport import CurveKeys

HELP = """Watch for decode processes on this machine, log what they touch, and steer what they keep.

Attaches to every decode process in the runtime folder, also to those that start later, and plans from the
first step with a heuristic; with --train it trains a model on the log as soon as that is long enough and
plans with it from then on. Ends on Ctrl-C or SIGTERM with its logs complete; a second one ends it at once.
SIGHUP reads the configuration again.

Each flag is also a key of the TOML file (--train-after: train_after, --rules-rows: rows in [rules]) and a variable
(HOTSET_TRAIN_AFTER, HOTSET_RULES__ROWS). Flags win over variables, variables over the file.

Example:

    hotset daemon --log-dir runs/daemon --train --train-after 200
"""


def register(app: typer.Typer) -> None:
    """Add the command to the `hotset` app."""
    app.command("daemon", help=HELP, cls=GroupedCommand)(with_config_flags(daemon))


def daemon(
    config: Annotated[Path | None, typer.Option(help="TOML file; default: $HOTSET_CONFIG, else none.")] = None,
    print_config: Annotated[
        bool, typer.Option("--print-config", help="Print the configuration that holds, with its sources, and end.")
    ] = False,
    **flags: Any,
) -> None:
    """See HELP."""
    given = given_flags(flags)
    if print_config:
        from hotset.daemon.settings import as_toml, load

        typer.echo(as_toml(load(given, config)), nl=False)
        return
    run_daemon(given, config)


def run_daemon(flags: dict[str, Any], file: Path | None = None) -> None:
    """Run a daemon until it is done or told to stop. `flags`: keys of its configuration that override all else."""
    from hotset.ops.imports import large_imports

    with large_imports():
        from hotset.daemon.run import run

    run(lambda: load_config(flags, file))


def load_config(flags: dict[str, Any], file: Path | None) -> Effective:
    """The configuration that holds, its model a folder also if it names one in the registry."""
    from hotset.daemon.settings import load

    effective = load(flags, file)
    config = effective.config
    if config.model is None or not str(config.model).startswith("models:"):
        return effective
    from hotset.training.registry import resolve_model

    return effective._replace(config=config.model_copy(update={"model": resolve_model(str(config.model))}))


def load_keys(folder: Path | None) -> CurveKeys | None:
    """The keys in `folder`; None if none was named."""
    if folder is None:
        return None
    from hotset.protos.transport.keys import client_keys

    return client_keys(folder)
