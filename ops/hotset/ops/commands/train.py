"""`hotset train`: a model from trace logs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from hotset.training.rows import Report
    from hotset.training.train import TrainResult

_EXAMPLE = """Train a reuse model on trace logs and register it as challenger.

Example: hotset train runs/today/log --trees 32 --out runs/model

Another example, on a Dask cluster: hotset train LOG --engine dask --scheduler tcp://10.0.0.1:8786
"""
_CONSTANT = (
    "this model says next to nothing: what trees learned did not hold on the sequences held out, which are unlike the "
    "others; log more of each kind, or hold out the end of every sequence (--split time)"
)


def register(app: typer.Typer) -> None:
    """Add `train` to the command line."""
    app.command(help=_EXAMPLE)(train)


def train(
    logs: Annotated[list[Path], typer.Argument(metavar="LOG...", help="trace logs: Parquet files or folders")],
    out: Annotated[Path | None, typer.Option(help="folder for the model [default: runs/<time>-train]")] = None,
    experiment: Annotated[str, typer.Option(help="MLflow experiment")] = "hotset",
    name: Annotated[str, typer.Option(help="registered model")] = "hotset-reuse",
    seed: Annotated[int, typer.Option(help="of sampling, split and trees")] = 0,
    trees: Annotated[int | None, typer.Option(help="trees of the forest [default: the recipe's]")] = None,
    rows: Annotated[int, typer.Option(help="rows sampled at most, 0 for all")] = 4_000_000,
    held_out: Annotated[float, typer.Option(help="share of the data held out")] = 0.2,
    split: Annotated[str, typer.Option(help="auto, sequence or time")] = "auto",
    threads: Annotated[int, typer.Option(help="threads of LightGBM, 0 for all cores")] = 0,
    engine: Annotated[str, typer.Option(help="local or dask")] = "local",
    scheduler: Annotated[str | None, typer.Option(help="address of a Dask scheduler")] = None,
    workers: Annotated[int, typer.Option(help="Dask workers to start where no scheduler is given")] = 2,
    tracking_uri: Annotated[
        str | None, typer.Option(help="MLflow store [default: $HOTSET_MLFLOW, else ./mlflow.db]")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print the result as JSON")] = False,
) -> None:
    from hotset.ops.imports import large_imports

    with large_imports():
        from hotset.training.options import TrainOptions
        from hotset.training.train import train as run

    options = TrainOptions(
        experiment=experiment,
        name=name,
        seed=seed,
        trees=trees,
        rows=rows,
        held_out=held_out,
        split=split,
        threads=threads,
        engine=engine,
        scheduler=scheduler,
        workers=workers,
        tracking_uri=tracking_uri,
    )
    folder = out or Path("runs") / f"{datetime.now(UTC):%Y%m%d-%H%M%S}-train"
    with progress() as report:
        result = run(logs, folder, options, report=report)
    _show(result, as_json=as_json, constant=result.metrics["trees"] <= 1 and trees != 1)


@contextmanager
def progress() -> Iterator[Report]:
    """Progress bars on standard error, one a stage."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns: Any = (TextColumn("{task.description:<10}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as bars:
        tasks: dict[str, Any] = {}

        def report(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = bars.add_task(stage, total=total)
            bars.update(tasks[stage], completed=done, total=total)

        yield report


def _show(result: TrainResult, *, as_json: bool, constant: bool) -> None:
    import json

    if as_json:
        typer.echo(json.dumps(result.as_dict()))
        return
    typer.echo(f"split {result.split.description}")
    for key, value in sorted(result.metrics.items()):
        typer.echo(f"{key:<16} {value:.6g}")
    if constant:
        typer.echo(_CONSTANT)
    typer.echo(f"model {result.folder}, registered as {result.version.uri} (challenger)")
    typer.echo(f"MLflow run {result.run.run_name} in experiment {result.run.experiment} of {result.run.tracking_uri}")
