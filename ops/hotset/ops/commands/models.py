"""`hotset models`: the versions there are, which of them serve, and what they were found to be worth."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from hotset.training.registry import Version

_EXAMPLE = """List registered model versions with aliases, held-out metrics and the outcome of their gate.

Example: hotset models --name hotset-reuse
"""


def register(app: typer.Typer) -> None:
    """Add `models` to the command line."""
    app.command(help=_EXAMPLE)(models)


def models(
    name: Annotated[str | None, typer.Option(help="only this registered model")] = None,
    tracking_uri: Annotated[
        str | None, typer.Option(help="MLflow store [default: $HOTSET_MLFLOW, else ./mlflow.db]")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="one JSON object a version and line")] = False,
) -> None:
    from hotset.training import registry

    names = [name] if name else registry.model_names(store=tracking_uri)
    versions = [v for each in names for v in registry.list_versions(each, store=tracking_uri)]
    if as_json:
        _print_json(versions)
    elif versions:
        _print_table(versions)
    else:
        typer.echo(f"no model {name!r} is registered" if name else "no model is registered; see `hotset train`")


def _print_json(versions: list[Version]) -> None:
    import json

    for v in versions:
        fields = {"name": v.name, "version": v.number, "aliases": v.aliases, "metrics": v.metrics}
        gate = {key: value for key, value in v.tags.items() if key.startswith("gate")}
        typer.echo(json.dumps(fields | {"run_id": v.run_id, "source": v.source, "gate": gate}))


def _print_table(versions: list[Version]) -> None:
    """One line a version; plain, so that a narrow terminal wraps the reason only."""
    from datetime import UTC, datetime

    width = max(len(v.name) for v in versions)
    typer.echo(f"{'model':<{width}}  version  aliases               made (UTC)        rmse    auc<=16  gate")
    for v in versions:
        made = datetime.fromtimestamp(v.created_ms / 1000, UTC)
        rmse, auc = (f"{v.metrics[k]:.4f}" if k in v.metrics else "-" for k in ("rmse", "auc_within_16"))
        gate = " ".join(filter(None, (v.tags.get("gate", "-"), v.tags.get("gate.reason"))))
        aliases = ",".join(v.aliases) or "-"
        typer.echo(
            f"{v.name:<{width}}  {v.number:>7}  {aliases:<20}  {made:%Y-%m-%d %H:%M}  {rmse:<6}  {auc:<7}  {gate}"
        )
