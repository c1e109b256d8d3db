"""What the daemon starts as a child at low priority: train on the log so far, judge, register, perhaps promote.

    python -m hotset.training.job --log FOLDER --out DIR --name NAME [--tracking-uri URI] ...

The sequences still grow, so while they are few the held-out part is the tail of each in time. `DIR/result.json`
appears last and whole; a kill at any moment leaves at worst a challenger that nobody promoted.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from hotset.predictor.trace import SequenceTrace, Trace, open_trace
from hotset.protos.errors import HotsetError
from hotset.training.files import write_atomically
from hotset.training.gate import QUICK_HEURISTICS, GateSettings
from hotset.training.logs import Log, slice_steps
from hotset.training.options import TrainOptions
from hotset.training.promotion import Promotion, promote_on
from hotset.training.registry import DEFAULT_NAME
from hotset.training.rows import Report
from hotset.training.split import Split
from hotset.training.train import TrainResult, silent, train

RESULT_FILE = "result.json"
DEFAULT_ROWS = 400_000
_FEW_SEQUENCES = 5
_GATE_CANDIDATES = 2_000_000


class Termination:
    """SIGTERM as an exception, so that the job ends by unwinding and removes its rows, which may be many.

    Python drops an exception that is raised inside a finalizer or a foreign library's callback. So the signal is
    remembered as well, and `check` raises again at each report of progress.
    """

    def __init__(self) -> None:
        self._status = 0
        signal.signal(signal.SIGTERM, self._told)

    def _told(self, number: int, frame: object) -> None:
        self._status = 128 + number
        self.check()

    def check(self, stage: str = "", done: int = 0, total: int = 0) -> None:
        """A `Report` that ends the job if it was told to end."""
        if self._status:
            sys.exit(self._status)


def run_job(
    log: Path, out: Path, options: TrainOptions, settings: GateSettings, report: Report = silent
) -> dict[str, object]:
    """Train on `log`, put the challenger through the gate on what was held out, and write `result.json`."""
    few = len(open_trace(log).sequence_ids) < _FEW_SEQUENCES
    result = train([log], out, replace(options, split="time" if few else "sequence"), report=report)
    held_out = held_out_traces(result.logs, result.split, max_candidates=_GATE_CANDIDATES)
    report("judging", 0, 1)
    promotion = promote_on(result.version, result.model, held_out, settings, store=options.tracking_uri)
    summary = _summary(result, promotion)
    write_atomically(out / RESULT_FILE, json.dumps(summary, indent=1))
    return summary


def held_out_traces(logs: Sequence[Log], split: Split, *, max_candidates: int) -> list[Trace]:
    """The held-out pieces as one trace a log: the newest sequences, until `max_candidates` candidates are reached."""
    parts: dict[int, list[SequenceTrace]] = {}
    candidates = 0
    for piece in reversed([piece for piece in split.pieces if piece.held_out]):
        if parts and candidates >= max_candidates:
            break
        sequence = logs[piece.log].reader.read(piece.sequence)
        steps = len(sequence.lengths)
        part = slice_steps(sequence, round(piece.begin * steps), round(piece.end * steps))
        if len(part.lengths):
            parts.setdefault(piece.log, []).append(part)
            candidates += part.pages.size
    return [Trace(logs[log].meta, found[::-1]) for log, found in parts.items()]


def _summary(result: TrainResult, promotion: Promotion) -> dict[str, object]:
    return result.as_dict() | {
        "version": str(promotion.version.number),
        "promoted": promotion.promoted,
        "reason": promotion.reason,
        "gate": promotion.gate.as_dict(),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the job from a command line; the exit status is 0 or that of the HotsetError, told on one line."""
    termination = Termination()
    told = _parser().parse_args(arguments)
    try:
        summary = _run(told, termination)
    except HotsetError as error:
        print(f"hotset: {error}", file=sys.stderr)
        return error.exit_code
    verdict = "promoted" if summary["promoted"] else "not promoted"
    print(f"{told.name} version {summary['version']}: {verdict}, {summary['reason']}")
    return 0


def _run(told: argparse.Namespace, termination: Termination) -> dict[str, object]:
    options = TrainOptions(
        experiment=told.experiment,
        name=told.name,
        seed=told.seed,
        trees=told.trees,
        rows=told.rows,
        threads=told.threads,
        tracking_uri=told.tracking_uri,
    )
    settings = GateSettings(ratio=told.ratio, pool=told.pool, heuristics=QUICK_HEURISTICS)
    return run_job(told.log, told.out, options, settings, termination.check)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m hotset.training.job", description=run_job.__doc__)
    parser.add_argument("--log", type=Path, required=True, help="folder of the trace log")
    parser.add_argument("--out", type=Path, required=True, help="folder for model, plots and result.json")
    parser.add_argument("--name", default=DEFAULT_NAME, help="registered model")
    parser.add_argument("--experiment", default="hotset", help="MLflow experiment")
    parser.add_argument("--tracking-uri", help="MLflow store; default $HOTSET_MLFLOW, else ./mlflow.db")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--trees", type=int, help="default: the recipe's")
    parser.add_argument("--rows", type=int, default=DEFAULT_ROWS, help="rows sampled at most")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--ratio", type=float, default=2.0, help="slots a lane over k in the gate's replay")
    parser.add_argument("--pool", choices=("lane", "shared"), default="lane", help="pool of the gate's replay")
    return parser


if __name__ == "__main__":
    sys.exit(main())
