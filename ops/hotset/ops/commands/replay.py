"""`hotset replay`: judge policies on recorded traces."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from hotset.predictor.replay import Pool, ReplayResult
    from hotset.predictor.replay.plot import Axis

_EXAMPLE = """Run traces against policies and count what each would have missed, moved and waited for.

Example: hotset replay code.parquet --policy lru,score-ema,belady --ratio 2 --json

Another example: hotset replay runs/today/log --policy all --ratio 1.5,2,4 --pool shared --plot misses.html
"""
_CHAMPION = "models:/hotset-reuse@champion"
_PLOT_RATIOS = (1.25, 1.5, 2.0, 3.0, 4.0)


def register(app: typer.Typer) -> None:
    """Add `replay` to the command line."""
    app.command(help=_EXAMPLE)(replay)


def replay(
    traces: Annotated[list[Path], typer.Argument(metavar="TRACE...", help="trace logs: files or folders of parts")],
    policy: Annotated[
        str,
        typer.Option(help="policies, separated by commas; all: what traces and model allow; heuristics: no model"),
    ] = "heuristics",
    ratio: Annotated[str, typer.Option(help="slots a lane over k, several separated by commas")] = "2.0",
    pool: Annotated[str, typer.Option(help="lane: one pool a lane; shared: one of the same total for all")] = "lane",
    model: Annotated[
        str, typer.Option(help="for learned policies: models:/NAME@ALIAS, models:/NAME/3 or a model folder")
    ] = _CHAMPION,
    tracking_uri: Annotated[
        str | None, typer.Option(help="MLflow store [default: $HOTSET_MLFLOW, else ./mlflow.db]")
    ] = None,
    link_gbps: Annotated[float, typer.Option(help="bandwidth of the host link, GB/s")] = 50.0,
    link_latency_us: Annotated[float, typer.Option(help="latency of a batch of transfers")] = 10.0,
    layer_us: Annotated[float, typer.Option(help="compute time of a layer, behind which prefetch hides")] = 50.0,
    jobs: Annotated[int, typer.Option(min=1, help="processes")] = 1,
    seed: Annotated[int, typer.Option(min=0, help="of the random policy")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="one JSON object a policy and line")] = False,
    plot: Annotated[Path | None, typer.Option(help="draw misses: FILE.png or FILE.html")] = None,
    over: Annotated[
        str, typer.Option(help="what to draw them over: ratio, or bytes (a line for NAME@BUDGET,NAME@BUDGET,...)")
    ] = "ratio",
) -> None:
    import json
    from dataclasses import asdict

    from hotset.predictor.replay import LinkModel, replay_files
    from hotset.predictor.replay.plot import check_target, draw

    names, ratios, axis = parse_policies(policy), parse_ratios(ratio), parse_axis(over)
    if policy == "all":
        names = _able(names, traces, model, tracking_uri)
    if plot is not None:
        check_target(plot)
    alone = plot is not None and axis == "ratio" and len(ratios) == 1
    drawn = sorted({*ratios, *_PLOT_RATIOS}) if alone else ratios
    run = names if plot is None or axis == "ratio" or "lru" in names else ["lru", *names]
    with _progress() as report:
        results = replay_files(
            traces,
            run,
            ratios=drawn,
            pool=parse_pool(pool),
            model=_model_folder(names, model, tracking_uri),
            link=LinkModel(link_gbps, link_latency_us, layer_us),
            seed=seed,
            jobs=jobs,
            progress=report,
        )
    if plot is not None:
        draw(results, plot, axis)
    asked = [result for result in results if result.ratio in ratios and result.policy in names]
    if as_json:
        for result in asked:
            typer.echo(json.dumps(asdict(result)))
    else:
        _print_table(asked)


def parse_policies(text: str) -> list[str]:
    """Names of known policies; PolicyError for any other."""
    from hotset.predictor.policies import POLICIES, get_policy

    if text in ("all", "heuristics"):
        return [name for name in POLICIES if text == "all" or not name.startswith(("learned", "lookahead"))]
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names or [text]:
        get_policy(name)
    return list(dict.fromkeys(names))


def parse_ratios(text: str) -> list[float]:
    """Numbers separated by commas; PolicyError otherwise."""
    from hotset.predictor.policies import PolicyError

    try:
        return list(dict.fromkeys(float(part) for part in text.split(",")))
    except ValueError:
        raise PolicyError(f"--ratio {text!r}: give a number, or several separated by commas") from None


def parse_axis(text: str) -> Axis:
    """`ratio` or `bytes`; PolicyError otherwise."""
    from hotset.predictor.policies import PolicyError

    if text == "ratio":
        return "ratio"
    if text == "bytes":
        return "bytes"
    raise PolicyError(f"--over {text!r}: choose ratio or bytes")


def parse_pool(text: str) -> Pool:
    """`lane` or `shared`; PolicyError otherwise."""
    from hotset.predictor.policies import PolicyError

    if text == "lane":
        return "lane"
    if text == "shared":
        return "shared"
    raise PolicyError(f"unknown pool {text!r}; choose lane or shared")


def _model_folder(names: Sequence[str], model: str, tracking_uri: str | None) -> Path | None:
    """Where the model lies that the policies need, if one of them does."""
    from hotset.predictor.policies import SteeredPolicy, get_policy

    found = [get_policy(name) for name in names]
    if not any(isinstance(policy, SteeredPolicy) and policy.needs_model for policy in found):
        return None
    from hotset.training.registry import resolve_model

    return resolve_model(model, store=tracking_uri)


def _able(names: Sequence[str], traces: Sequence[Path], model: str, tracking_uri: str | None) -> list[str]:
    """Those that can run; says on standard error what the others lack. A model that was named has to be there."""
    from hotset.ops.able import sort_out
    from hotset.predictor.model import ReuseModel
    from hotset.training.errors import RegistryError
    from hotset.training.registry import resolve_model

    try:
        loaded = ReuseModel.load(resolve_model(model, store=tracking_uri))
    except RegistryError:
        if model != _CHAMPION:
            raise
        loaded = None
    able, lacking = sort_out(names, traces, loaded)
    for name, lack in lacking.items():
        typer.echo(f"left out: {name}, which needs {lack}", err=True)
    return able


@contextmanager
def _progress() -> Iterator[Callable[[int, int], None]]:
    """A bar on standard error that leaves nothing behind."""
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bars:
        task = bars.add_task("replay", total=None)
        yield lambda done, total: bars.update(task, completed=done, total=total)


def _print_table(results: Sequence[ReplayResult]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    first = results[0]
    columns = ("misses", "ratio", "gap", "prefetched", "used", "MB moved", "stall s")
    title = f"{first.pool} pool, {first.accesses:,} accesses"
    table = Table("B/k", title=title, box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("policy", overflow="fold")  # a name that is cut is nobody's
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    for r in results:
        table.add_row(
            f"{r.ratio:g}",
            r.policy,
            str(r.demand_misses),
            f"{r.miss_ratio:.5f}",
            "" if r.gap_closed is None else f"{r.gap_closed:.1%}",
            str(r.prefetched_pages),
            "" if r.prefetch_precision is None else f"{r.prefetch_precision:.1%}",
            f"{r.moved_bytes / 1e6:.1f}",
            f"{r.stall_seconds:.4f}",
        )
    Console().print(table)
