"""`hotset simulate`: recorded traces tiled to a node, in virtual time, beside the real daemon."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from hotset.ops.simulate.run import Job

HELP = """Tile recorded traces to the load of a node and serve them in virtual time, beside the real daemon.

Answers how fast a node would be with another link, memory, batch or policy. Numbers of the node may be several,
separated by commas: every combination is run. The same command and seed give the same figures.

Example: hotset simulate code.parquet --sequences 32 --sweep concurrency=1,2,4,8 --policy builtin,heuristic

Another example: hotset simulate code.parquet docs.parquet --hbm-gib 0.5,1 --link-gbps 55,110 --plot node.png

A GPU server: hotset simulate docs.parquet --node h200-llama3-8b --sequences 80 --sweep concurrency=8,24,64

How far off all this is for a run that was logged: hotset simulate --real runs/daemon/SESSION
"""
_CHAMPION = "models:/hotset-reuse@champion"


def register(app: typer.Typer) -> None:
    """Add the command to the `hotset` app."""
    app.command("simulate", help=HELP)(simulate)


def simulate(
    traces: Annotated[
        list[Path] | None, typer.Argument(metavar="TRACE...", help="trace logs: files or folders of parts")
    ] = None,
    policy: Annotated[
        str | None,
        typer.Option(
            help="builtin (no daemon), heuristic, learned, or learned-device (also inside steps); several by commas "
            "[default: builtin]"
        ),
    ] = None,
    controller: Annotated[bool, typer.Option("--controller", help="obey the daemon's advice")] = False,
    model: Annotated[
        str, typer.Option(help="for learned and learned-device: models:/NAME@ALIAS, models:/NAME/3 or a model folder")
    ] = _CHAMPION,
    tracking_uri: Annotated[
        str | None, typer.Option(help="MLflow store [default: $HOTSET_MLFLOW, else ./mlflow.db]")
    ] = None,
    sequences: Annotated[str, typer.Option(help="requests; copies of the recorded sequences, in turn")] = "16",
    arrivals: Annotated[
        str, typer.Option(help="at-once, poisson:REQUESTS_A_SECOND or bursts:REQUESTS:SECONDS_APART")
    ] = "at-once",
    tokens: Annotated[str | None, typer.Option(help="tokens a request [default: all that was recorded]")] = None,
    shared_prefix: Annotated[str, typer.Option(help="share of the prompt that copies have in common")] = "0",
    node: Annotated[
        str | None,
        typer.Option(help="a node's parameters, which other options override: h200-llama3-8b, or a file NODE.toml"),
    ] = None,
    context: Annotated[
        str | None, typer.Option(help="tokens that a request takes memory for [default: what was recorded]")
    ] = None,
    concurrency: Annotated[str | None, typer.Option(help="requests that may run at once [default: all]")] = None,
    ratio: Annotated[str | None, typer.Option(help="hot slots over k, per lane of these [default: 2]")] = None,
    slots: Annotated[str | None, typer.Option(help="hot slots; overrides --ratio")] = None,
    hbm_gib: Annotated[str | None, typer.Option(help="memory for hot slots and running requests together")] = None,
    sequence_mib: Annotated[str | None, typer.Option(help="of it, a request [default: its page bounds]")] = None,
    link_gbps: Annotated[str | None, typer.Option(help="bandwidth of the host link, GB/s [default: 50]")] = None,
    link_latency_us: Annotated[str | None, typer.Option(help="latency of a batch of transfers [default: 10]")] = None,
    step_us: Annotated[str | None, typer.Option(help="compute of a step, whatever the batch [default: 1200]")] = None,
    sequence_us: Annotated[
        str | None, typer.Option(help="compute that each request of the batch adds [default: 40]")
    ] = None,
    plan_delay_us: Annotated[
        str | None, typer.Option(help="from a step's event to its plan on the wire [default: 1000]")
    ] = None,
    score_ns: Annotated[
        str | None, typer.Option(help="for the daemon to score a page [default: 200 heuristic, 2000 learned]")
    ] = None,
    lookahead_us: Annotated[
        str | None, typer.Option(help="learned-device: compute that a layer's lookahead adds [default: 15]")
    ] = None,
    lookahead_sequence_us: Annotated[
        str | None, typer.Option(help="and for each request of the batch [default: 0]")
    ] = None,
    builtin: Annotated[
        str | None, typer.Option(help="built-in policy: margin-ema, score-ema or lru [default: margin-ema]")
    ] = None,
    real: Annotated[
        Path | None,
        typer.Option(help="compare with the real run in this log of `hotset daemon`; link and compute are its"),
    ] = None,
    calibrate: Annotated[
        Path | None,
        typer.Option(help="for --real: link and compute are those of this run, on the same machine and link"),
    ] = None,
    log_dir: Annotated[
        Path | None, typer.Option(help="keep the daemon's log of every run here, to train on or for --real")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="of arrivals and copies")] = 0,
    sweep: Annotated[
        list[str] | None,
        typer.Option(help="NAME=VALUE,VALUE,...: any option above or field of a node file; may be repeated"),
    ] = None,
    jobs: Annotated[int, typer.Option(min=1, help="processes")] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="one JSON object a run and line")] = False,
    plot: Annotated[Path | None, typer.Option(help="draw trade-off curves: FILE.png or FILE.html")] = None,
) -> None:
    """See HELP."""
    import json

    from hotset.ops.simulate.node import Node
    from hotset.ops.simulate.nodes import load_node
    from hotset.ops.simulate.plot import check_target, draw
    from hotset.ops.simulate.run import Job, Load
    from hotset.ops.simulate.sweep import jobs_of, parse_axis, parse_values, run_jobs
    from hotset.ops.simulate.table import print_table
    from hotset.protos.errors import ConfigError

    given = {
        "policy": policy or "builtin", "sequences": sequences, "arrivals": arrivals, "tokens": tokens,
        "shared_prefix": shared_prefix, "context": context, "concurrency": concurrency, "ratio": ratio, "slots": slots,
        "hbm_gib": hbm_gib,
        "sequence_mib": sequence_mib, "link_gbps": link_gbps, "link_latency_us": link_latency_us,
        "step_us": step_us, "sequence_us": sequence_us, "plan_delay_us": plan_delay_us, "score_ns": score_ns,
        "lookahead_us": lookahead_us, "lookahead_sequence_us": lookahead_sequence_us,
        "builtin": builtin,
    }  # fmt: skip
    if real is not None:
        _compare(
            real, calibrate, policy, lambda: _model_folder(["learned"], model, tracking_uri), as_json,
            {"link_gbps": link_gbps, "plan_delay_us": plan_delay_us, "score_ns": score_ns, "builtin": builtin},
        )  # fmt: skip
        return
    if calibrate is not None:
        raise ConfigError("--calibrate goes with --real LOG")
    swept = dict(parse_axis(text) for text in sweep or ())
    options = {name: parse_values(name, text) for name, text in given.items() if text is not None} | swept
    # What was asked for by --sweep comes first: plots are drawn over it.
    axes = {name: options[name] for name in [*swept, *options] if len(options[name]) > 1}
    folder = _model_folder(options["policy"], model, tracking_uri)
    if not traces:
        raise ConfigError("nothing to simulate; give a TRACE, or --real LOG")
    base = Job(
        tuple(traces), controller=controller, model=folder, load=Load(seed=seed), log_dir=log_dir,
        node=Node.checked(**load_node(node)) if node else Node(),
    )  # fmt: skip
    if plot is not None:
        check_target(plot, axes)
    todo = jobs_of(base, options)
    with _progress() as report:
        reports = [_asked(job, found) for job, found in zip(todo, run_jobs(todo, jobs, report), strict=True)]
    if plot is not None:
        draw(reports, axes, plot)
    if as_json:
        for found in reports:
            typer.echo(json.dumps(found))
    else:
        print_table(reports, list(axes))


def _compare(
    log: Path, calibrate: Path | None, policy: str | None, model: Callable[[], Path | None], as_json: bool,
    given: dict[str, str | None],
) -> None:  # fmt: skip
    """Compare with a real run; `given` are options of the node as text."""
    import json

    from hotset.ops.simulate.real import compare
    from hotset.ops.simulate.sweep import parse_values
    from hotset.ops.simulate.table import print_real

    options = {name: parse_values(name, text)[0] for name, text in given.items() if text is not None}
    found = compare(
        log, policy=policy, model=model, link_gbps=options.pop("link_gbps", None), calibrate=calibrate, options=options
    )
    if as_json:
        typer.echo(json.dumps(found))
    else:
        print_real(found)


def _asked(job: Job, report: dict[str, Any]) -> dict[str, Any]:
    """The report, and under `asked` the options that it answers."""
    from dataclasses import asdict

    return {"asked": {"policy": job.policy, **asdict(job.load), **job.node.model_dump()}, **report}


def _model_folder(policies: list[str], model: str, tracking_uri: str | None) -> Path | None:
    """Where the model lies, if a policy needs one."""
    from hotset.ops.simulate.run import MODEL_POLICIES

    if not set(MODEL_POLICIES) & set(policies):
        return None
    from hotset.training.registry import resolve_model

    return resolve_model(model, store=tracking_uri)


@contextmanager
def _progress() -> Iterator[Callable[[int, int], None]]:
    """A bar on standard error that leaves nothing behind."""
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bars:
        task = bars.add_task("simulate", total=None)
        yield lambda done, total: bars.update(task, completed=done, total=total)
