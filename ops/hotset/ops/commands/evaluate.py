"""`hotset evaluate`: what a model is worth on given traces."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from hotset.training.gate import Figures

_EXAMPLE = """Judge a model on traces: errors on rows, and replay against heuristics and the clairvoyant bound.

Example: hotset evaluate models:/hotset-reuse@champion traces/docs.parquet --ratio 2
"""


ON_DEVICE = "decided inside the step by the heads for the device, within the bytes of the thriftiest:"


def register(app: typer.Typer) -> None:
    """Add `evaluate` to the command line."""
    app.command(help=_EXAMPLE)(evaluate)


def evaluate(
    model: Annotated[str, typer.Argument(help="models:/NAME@ALIAS, models:/NAME/3 or a model folder")],
    traces: Annotated[list[Path], typer.Argument(metavar="TRACE...", help="trace logs")],
    ratio: Annotated[float, typer.Option(help="slots a lane over k")] = 2.0,
    pool: Annotated[str, typer.Option(help="lane or shared")] = "lane",
    rows: Annotated[int, typer.Option(help="rows sampled for the errors")] = 200_000,
    seed: Annotated[int, typer.Option(help="of the sampling")] = 0,
    tracking_uri: Annotated[
        str | None, typer.Option(help="MLflow store [default: $HOTSET_MLFLOW, else ./mlflow.db]")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print the result as JSON")] = False,
) -> None:
    import json
    from dataclasses import asdict

    from hotset.ops.imports import large_imports

    with large_imports():
        from hotset.predictor.model import ReuseModel
        from hotset.training.evaluate import evaluate as run
        from hotset.training.gate import QUICK_HEURISTICS, make_settings
        from hotset.training.registry import resolve_model

    settings = make_settings(ratio=ratio, pool=pool, heuristics=QUICK_HEURISTICS, bound=True)
    loaded = ReuseModel.load(resolve_model(model, store=tracking_uri))
    with waiting("replaying the traces under the model and its rivals"):
        result = run(loaded, traces, settings, seed=seed, rows=rows)
    if as_json:
        typer.echo(json.dumps(asdict(result)))
        return
    for key, value in sorted(result.metrics.items()):
        typer.echo(f"{key:<16} {value:.6g}")
    print_figures(result.figures)
    if result.on_device:
        typer.echo(ON_DEVICE)
        print_figures(result.on_device)


def waiting(what: str) -> AbstractContextManager[object]:
    """Says on standard error what takes its time, while it does."""
    from rich.console import Console

    return Console(stderr=True).status(what)


def print_figures(figures: Iterable[Figures]) -> None:
    """The contenders of a replay as a table on standard output."""
    from rich.console import Console
    from rich.table import Table

    columns = ("demand misses", "miss ratio", "gap closed", "moved bytes", "stall s")
    table = Table("contender", *columns)
    for f in figures:
        table.add_row(
            f.contender,
            str(f.demand_misses),
            f"{f.miss_ratio:.5f}",
            "" if f.gap_closed is None else f"{f.gap_closed:.1%}",
            str(f.moved_bytes),
            f"{f.stall_seconds:.6f}",
        )
    Console().print(table)
