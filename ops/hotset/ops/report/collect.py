"""Reads a run's folder and makes its summary: counts by phase, plans, model, replays of the same log."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from hotset.ops.run_folder import RESULT_FILE, STEPS_FILE
from hotset.predictor.replay import ReplayResult
from hotset.predictor.trace import SequenceTrace, Trace
from hotset.protos.errors import ConfigError

PHASES = ("builtin", "heuristic", "learned")
_STEERED_BY = {"heuristic": "heuristic", "learned": "learned", "lease_lost": "builtin", "end": "builtin"}
REPLAYED = ("lru", "score-ema", "margin-ema", "learned", "learned-prefetch", "belady")


@dataclass(frozen=True)
class Run:
    """What a demo run left in its folder."""

    folder: Path
    decode: dict[str, Any]
    steps: list[dict[str, Any]]
    status: dict[str, Any]
    training: dict[str, Any]
    training_folder: Path | None
    log: Path

    def epoch(self, phase: str) -> int | None:
        """Epoch at which the daemon noted `phase` first, None if it never did."""
        return next((p["epoch"] for p in self.status["phases"] if p["phase"] == phase), None)

    def phase_of(self, step: dict[str, Any]) -> str:
        """Who steered a step: plans made from the step of an event act on the steps after it."""
        steering = "builtin"
        for event in self.status["phases"]:
            if event["epoch"] < step["epoch"] and event["phase"] in _STEERED_BY:
                steering = _STEERED_BY[event["phase"]]
        return steering


def read_run(folder: Path) -> Run:
    """Read a run's folder. Raises ConfigError that names what is missing."""
    decode, steps = folder / "decode" / RESULT_FILE, folder / "decode" / STEPS_FILE
    sessions = sorted((folder / "daemon").glob("*/status.json"))
    for needed in (decode, steps, *sessions[:1]):
        if not needed.is_file():
            raise ConfigError(f"{folder} is not a finished demo run: {needed} is missing")
    if not sessions:
        raise ConfigError(f"{folder} is not a finished demo run: no daemon session is in {folder / 'daemon'}")
    session = sessions[-1].parent
    results = sorted(session.glob("training-*/result.json"))
    return Run(
        folder=folder,
        decode=json.loads(decode.read_text()),
        steps=[json.loads(line) for line in steps.read_text().splitlines()],
        status=json.loads(sessions[-1].read_text()),
        training=json.loads(results[-1].read_text()) if results else {},
        training_folder=results[-1].parent if results else None,
        log=session / "trace",
    )


def summarize(run: Run) -> dict[str, Any]:
    """The content of `summary.json`; docs/demo.md explains each field."""
    moved, counters = run.decode["moved"], run.status["counters"]
    return {
        "model": run.decode["model"],
        "steps": run.decode["steps"],
        "sequences": len(run.decode["sequences"]),
        "sequence_steps": sum(step["sequences"] for step in run.steps),
        "geometry": run.decode["geometry"],
        "accesses": moved["accesses"],
        "demand_misses": {phase: sum(s["demand_misses"] for s in _steps(run, phase)) for phase in PHASES},
        "phases": {phase: _phase(run, phase) for phase in PHASES},
        "prefetched_hits": moved["prefetched_hits"],
        "prefetched_pages": moved["prefetch_pages"],
        "moved_bytes": moved["moved_bytes"],
        "plans_sent": counters["plans_sent"],
        "plans_applied": moved["plans_applied"],
        "entries_applied": moved["entries_applied"],
        "entries_rejected": moved["entries_rejected"],
        "model_version": run.status["model_version"],
        "promoted": run.training.get("promoted"),
        "gate_reason": run.training.get("reason", ""),
        "mlflow_run": run.training.get("mlflow_run", {}),
        "events": [_event(p, run.status["phases"][0]["time"]) for p in run.status["phases"]],
        "tokens_identical_to_untiered": run.decode.get("tokens_identical_to_untiered"),
    }


def replay_rest(run: Run) -> list[ReplayResult]:
    """Replay what was logged after training began, which the model has not seen, with one pool of the run's size."""
    from hotset.predictor.model import ReuseModel
    from hotset.predictor.replay import replay_many
    from hotset.predictor.trace import read_trace

    since = run.epoch("training_started")
    trace = read_trace(run.log)
    rest = [part for s in trace.sequences if len((part := _after(s, since or 0)).epochs) > 1]
    if not rest:
        return []
    shape = run.decode["geometry"]
    lanes = shape["layers"] * shape["kv_heads"] * len(rest)
    ratio = max(1.0, shape["slots"] / lanes / shape["selected"])
    model = ReuseModel.load(Path(run.training["model"])) if run.training else None
    policies = [name for name in REPLAYED if model is not None or not name.startswith("learned")]
    return replay_many([Trace(trace.meta, rest)], policies, ratio=ratio, pool="shared", model=model)


def headline(summary: dict[str, Any], results: Sequence[ReplayResult]) -> str:
    """In one sentence: the model against LRU on the same accesses, and whether the tokens are the same."""
    lru, learned = (next((r for r in results if r.policy == p), None) for p in ("lru", "learned-prefetch"))
    same = {True: "every token is the same", False: "tokens differ from the untiered run"}.get(
        summary["tokens_identical_to_untiered"], "tokens were not compared"
    )
    if lru is None or learned is None or not lru.demand_misses:
        return f"No model was trained; {same}"
    change = learned.demand_misses / lru.demand_misses - 1
    return f"The learned model misses {abs(change):.0%} {'less' if change < 0 else 'more'} than LRU, and {same}"


def replays_as_json(results: Sequence[ReplayResult]) -> list[dict[str, Any]]:
    """For summary.json."""
    return [asdict(result) for result in results]


def _after(sequence: SequenceTrace, epoch: int) -> SequenceTrace:
    keep = sequence.epochs > epoch
    return replace(
        sequence,
        steps=sequence.steps[keep],
        lengths=sequence.lengths[keep],
        epochs=sequence.epochs[keep],
        pages=sequence.pages[keep],
        scores=sequence.scores[keep],
        flags=sequence.flags[keep],
        lookahead={early: ranks[keep] for early, ranks in sequence.lookahead.items()},
    )


def _event(event: dict[str, Any], since: float) -> dict[str, Any]:
    return {"phase": event["phase"], "epoch": event["epoch"], "seconds": round(event["time"] - since, 3)}


def _steps(run: Run, phase: str) -> list[dict[str, Any]]:
    return [step for step in run.steps if run.phase_of(step) == phase]


def _phase(run: Run, phase: str) -> dict[str, Any]:
    steps = _steps(run, phase)
    accesses, misses = sum(s["accesses"] for s in steps), sum(s["demand_misses"] for s in steps)
    return {
        "steps": len(steps),
        "accesses": accesses,
        "demand_misses": misses,
        "miss_ratio": misses / accesses if accesses else None,
        "prefetched_hits": sum(s["prefetched_hits"] for s in steps),
        "moved_bytes": sum(s["moved_bytes"] for s in steps),
        "seconds": sum(s["seconds"] for s in steps),
        "stall_seconds": sum(s["stall_seconds"] for s in steps),
    }
