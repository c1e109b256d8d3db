"""`hotset promote`: let a version serve if it passes the gate, or go back to the one before."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hotset.ops.commands.evaluate import ON_DEVICE, print_figures, waiting

if TYPE_CHECKING:
    from hotset.training.promotion import Promotion
    from hotset.training.registry import Version

REFUSED = 8
"""Exit code of a promotion that the gate refused."""

_EXAMPLE = """Make a model champion if replay on held-out traces shows less stall at no more bytes than the
champion and every heuristic; exit code 8, with the figures, if not.

Example: hotset promote models:/hotset-reuse@challenger --traces held-out.parquet

Without a model, the challenger of --name is meant. To go back: hotset promote --rollback
"""


def register(app: typer.Typer) -> None:
    """Add `promote` to the command line."""
    app.command(help=_EXAMPLE)(promote)


def promote(
    model: Annotated[
        list[str] | None,
        typer.Argument(metavar="[MODEL] [TRACE]...", help="models:/NAME@ALIAS, models:/NAME/3 or a model folder"),
    ] = None,
    name: Annotated[str, typer.Option(help="registered model")] = "hotset-reuse",
    version: Annotated[int | None, typer.Option(help="version of --name [default: its challenger]")] = None,
    traces: Annotated[list[Path] | None, typer.Option(help="held-out trace log; may be repeated")] = None,
    ratio: Annotated[float, typer.Option(help="slots a lane over k")] = 2.0,
    pool: Annotated[str, typer.Option(help="lane or shared")] = "lane",
    rollback: Annotated[bool, typer.Option("--rollback", help="let the champion before serve again")] = False,
    tracking_uri: Annotated[
        str | None, typer.Option(help="MLflow store [default: $HOTSET_MLFLOW, else ./mlflow.db]")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print the result as JSON")] = False,
) -> None:
    from hotset.training import registry
    from hotset.training.errors import TrainingError
    from hotset.training.gate import make_settings
    from hotset.training.promotion import promote as run

    if rollback:
        back = registry.rollback(name, store=tracking_uri)
        typer.echo(f"{back.uri} is champion again")
        return
    named, held_out = _sort_arguments(model or [], traces or [])
    if not held_out:
        raise TrainingError("promote needs held-out traces: hotset promote [MODEL] --traces TRACE")
    challenger = _find(named, name, version, tracking_uri)
    with waiting("replaying the traces under the challenger, the champion and every heuristic"):
        result = run(challenger, held_out, make_settings(ratio=ratio, pool=pool), store=tracking_uri)
    _show(result, as_json=as_json)
    if not result.promoted:
        raise typer.Exit(REFUSED)


def _sort_arguments(words: list[str], traces: list[Path]) -> tuple[str | None, list[Path]]:
    """The model, if one was named, and the traces: `--traces A B C` leaves B and C among the plain words."""
    from hotset.training.registry import is_model

    named = words[0] if words and is_model(words[0]) else None
    return named, [*traces, *(Path(word) for word in words[1 if named else 0 :])]


def _find(named: str | None, name: str, version: int | None, store: str | None) -> Version:
    from hotset.training import registry
    from hotset.training.promotion import adopt

    if named and not named.startswith("models:"):
        return adopt(Path(named), name, store=store)
    wanted = f"/{version}" if version is not None else f"@{registry.CHALLENGER}"
    return registry.find_version(named or f"models:/{name}{wanted}", store=store)


def _show(result: Promotion, *, as_json: bool) -> None:
    import json

    if as_json:
        told = {"version": result.version.number, "promoted": result.promoted, "reason": result.reason}
        typer.echo(json.dumps(told | {"gate": result.gate.as_dict()}))
        return
    print_figures(result.gate.figures)
    if result.gate.on_device:
        typer.echo(ON_DEVICE)
        print_figures(result.gate.on_device)
    verdict = "is champion now" if result.promoted else "was not promoted"
    typer.echo(f"{result.version.uri} {verdict}: {result.reason}")
