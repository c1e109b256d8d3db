"""See the package."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path

from hotset.predictor import recipe
from hotset.predictor.experiments import __doc__ as usage
from hotset.predictor.experiments.fit import device_rows, fit, lookahead_rows, reuse_rows
from hotset.predictor.experiments.judge import Tally
from hotset.predictor.model import ReuseModel
from hotset.predictor.trace import Trace, read_trace
from hotset.protos.errors import HotsetError
from hotset.protos.features import FEATURES_HASH

RATIOS = (2.0, 4.0)
EVICTION = ("score-ema", "margin-ema", "learned")
LOOKAHEAD = ("learned", "learned-prefetch", "learned-lookahead", "learned-lookahead-wide")
DEVICE = ("learned-device", "learned-device-wide")


def main() -> None:
    """Parse, run, write `results.json` and print it."""
    told = _parser().parse_args()
    try:
        lines = {"eviction": _eviction, "lookahead": _lookahead, "transfer": _transfer}[told.experiment](told)
    except HotsetError as error:
        sys.exit(f"experiments: {error}")
    facts = {"experiment": told.experiment, "features": FEATURES_HASH[:12], "trees": recipe.TREES, "seed": told.seed}
    told.out.mkdir(parents=True, exist_ok=True)
    (told.out / f"{told.experiment}.json").write_text(json.dumps(facts | {"results": lines}, indent=1) + "\n")
    if told.mlflow:
        _record(told.mlflow, facts, lines)
    for line in lines:
        print(json.dumps(line))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=usage, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiment", choices=["eviction", "lookahead", "transfer"])
    parser.add_argument("traces", nargs="*", type=Path, metavar="TRACE", help="trace logs (hotset trace import)")
    parser.add_argument("--train", nargs="+", type=Path, default=[], help="transfer: traces to learn from")
    parser.add_argument("--judge", nargs="+", type=Path, default=[], help="transfer: traces to judge on")
    parser.add_argument("--reuse", nargs="*", type=Path, default=[], help="lookahead: more traces for the first head")
    parser.add_argument("--folds", type=int, default=0, help="0: leave one trace out")
    parser.add_argument("--fraction", type=float, default=0.05, help="rows over candidates")
    parser.add_argument("--shared", action="store_true", help="judge the shared pool too")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--mlflow", default="", metavar="URI", help="record the run there")
    parser.add_argument("--out", type=Path, default=Path("runs/experiments"))
    return parser


def _folds(traces: list[Path], count: int) -> Iterator[tuple[list[int], list[int]]]:
    """Numbers of the traces to train on and to judge on."""
    count = count or len(traces)
    for fold in range(count):
        judged = [i for i in range(len(traces)) if i % count == fold]
        yield [i for i in range(len(traces)) if i not in judged], judged


def _eviction(told: argparse.Namespace) -> list[dict[str, float | str]]:
    traces = [read_trace(path) for path in told.traces]
    rows = [reuse_rows(trace, fraction=told.fraction, seed=told.seed) for trace in traces]
    tally = Tally()
    for train, judged in _folds(told.traces, told.folds):
        model = fit([rows[i] for i in train], seed=told.seed)
        for i in judged:
            _judge_eviction(tally, traces[i], model, shared=told.shared)
            print(f"judged {told.traces[i].name}", file=sys.stderr)
    return tally.lines()


def _judge_eviction(tally: Tally, trace: Trace, model: ReuseModel, *, shared: bool) -> None:
    for ratio in RATIOS:
        tally.add(trace, model, EVICTION, ratio, "lane")
        if shared:
            tally.add(trace, model, EVICTION, ratio, "shared")


def _lookahead(told: argparse.Namespace) -> list[dict[str, float | str]]:
    traces = [read_trace(path) for path in told.traces]
    rows = [reuse_rows(trace, fraction=4 * told.fraction, seed=told.seed) for trace in traces]
    more = [reuse_rows(read_trace(path), fraction=told.fraction, seed=told.seed) for path in told.reuse]
    ranked = [lookahead_rows(trace, fraction=8 * told.fraction, seed=told.seed) for trace in traces]
    device = [device_rows(trace, fraction=4 * told.fraction, seed=told.seed) for trace in traces]
    tally = Tally()
    for train, judged in _folds(told.traces, told.folds):
        heads = [part for i in train if (part := ranked[i]) is not None]
        small = [(first, second) for first, second in (device[i] for i in train) if second is not None]
        model = fit([*(rows[i] for i in train), *more], heads, device=small, seed=told.seed)
        for i in judged:
            tally.add(traces[i], model, (*LOOKAHEAD, *DEVICE), 2.0, "lane")
            print(f"judged {told.traces[i].name}", file=sys.stderr)
    return tally.lines()


def _transfer(told: argparse.Namespace) -> list[dict[str, float | str]]:
    model = fit([reuse_rows(read_trace(p), fraction=told.fraction, seed=told.seed) for p in told.train], seed=told.seed)
    tally = Tally()
    for path in told.judge:
        _judge_eviction(tally, read_trace(path), model, shared=told.shared)
    return tally.lines()


def _record(uri: str, facts: dict[str, object], lines: list[dict[str, float | str]]) -> None:
    import mlflow

    mlflow.set_tracking_uri(uri)
    mlflow.set_experiment("hotset-experiments")
    with mlflow.start_run(run_name=str(facts["experiment"])):
        mlflow.log_params(facts | recipe.lightgbm_params() | {"cap": recipe.CAP})
        for line in lines:
            place = f"{line['pool']}-{line['ratio']}-{line['policy']}"
            mlflow.log_metrics(
                {f"{place}/{key}": value for key, value in line.items() if isinstance(value, float | int)}
            )


if __name__ == "__main__":
    main()
