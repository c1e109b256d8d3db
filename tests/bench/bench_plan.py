"""Plan latency: from a step's event to the plan on the wire, between two processes over ipc.

    python tests/bench/bench_plan.py [--sequences 64] [--rate 2e6] [--seconds 20]

3,072 lanes of 128 candidates by default, once planned by the heuristic and once by a model that is trained on the
recorded sample. `plan_ms` is what the decode process sees, from publishing a step to the next plan in its hands;
`arrival_to_sent_ms` what the daemon sees; `scored_share` is the share of all lanes whose turn came between two plans,
`scored_rows_a_plan` the values and prefetches that a plan holds. Before that `path` tells the processor time, in
milliseconds, of what stands between a step and its plan (decode, take, make, encode), of learning the step, and of
scoring one plan's pages, all on one thread; `beginning`, what no plan can interrupt as a session begins: taking over
the first snapshot, and the longest turn of learning the first steps. Prints one JSON object a part.

    python tests/bench/bench_plan.py --only beginning [--sequences 64]
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench_ingest import served  # type: ignore[import-not-found]
from daemon_load import Node  # type: ignore[import-not-found]

from hotset.daemon.config import PlanRules
from hotset.daemon.planner import Planner
from hotset.daemon.scorers import HeuristicScorer, LearnedScorer
from hotset.daemon.state import SessionState
from hotset.daemon.turns import Scored, Scorer, Turns
from hotset.predictor.experiments.fit import fit, reuse_rows
from hotset.predictor.trace import read_trace
from hotset.protos.wire import decode, encode

SAMPLE = Path(__file__).parents[1] / "data" / "sample.parquet"


def main() -> None:
    """Measure both scorers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sequences", type=int, default=64)
    parser.add_argument("--rate", type=float, default=2e6, help="selected pages a second")
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--only", choices=["beginning"], help="without planning at a rate")
    told = parser.parse_args()
    print(json.dumps({"beginning": beginning(told.sequences)}), flush=True)
    if told.only:
        return
    learned = LearnedScorer(fit([reuse_rows(read_trace(SAMPLE), fraction=0.5, seed=0)]))
    for scorer in (HeuristicScorer(), learned):
        print(json.dumps({scorer.source: {"path": path(scorer, told.sequences)}}), flush=True)
        found = served(scorer, False, sequences=told.sequences, rate=told.rate, seconds=told.seconds)
        print(json.dumps({scorer.source: found}), flush=True)


def beginning(sequences: int, steps: int = 5) -> dict[str, float]:
    """Milliseconds, and of them processor time, of the first snapshot and of the longest turn of learning."""
    node = Node(sequences, 50_000)
    first = [node.step(epoch) for epoch in range(1, steps + 1)]
    warm = SessionState(node.shape)
    warm.snapshot(Node(1, 50_000).snapshot(0))
    state, message = SessionState(node.shape), node.snapshot(0)
    clock, used = time.perf_counter(), time.thread_time()
    state.snapshot(message)
    found = {"snapshot_ms": time.perf_counter() - clock, "snapshot_processor_ms": time.thread_time() - used}
    found |= {"longest_turn_ms": 0.0, "longest_turn_processor_ms": 0.0, "all_turns_ms": 0.0}
    for step in first:
        turns = state.learning(state.take(step), step.epoch)
        clock, used = time.perf_counter(), time.thread_time()
        for _ in turns:
            took, busy = time.perf_counter() - clock, time.thread_time() - used
            found["longest_turn_ms"] = max(found["longest_turn_ms"], took)
            found["longest_turn_processor_ms"] = max(found["longest_turn_processor_ms"], busy)
            found["all_turns_ms"] += took
            clock, used = time.perf_counter(), time.thread_time()
    held = state.room.used(state.sequences)
    return {name: round(1e3 * spent, 1) for name, spent in found.items()} | {"features_mb": round(held / 1e6)}


def path(scorer: Scorer, sequences: int, steps: int = 40) -> dict[str, float]:
    """Processor milliseconds of each stage (median), pages scored and lanes that had their turn a plan."""
    node, rules, spent = Node(sequences, 50_000), PlanRules(), defaultdict(list)
    state, planner, turns = SessionState(node.shape), Planner(rules), Turns(near=True)
    state.snapshot(node.snapshot(0))
    scored: list[Scored] = []

    def timed(stage: str, run: Callable[..., Any], *arguments: Any) -> Any:
        began = time.thread_time()
        found = run(*arguments)
        spent[stage].append((time.thread_time() - began) * 1e3)
        return found

    for epoch in range(1, steps + 1):
        frames = [bytes(frame) for frame in encode(node.step(epoch), epoch)]
        _, message = timed("decode", decode, frames)
        parts = timed("take", state.take, message)
        plan = timed("make", planner.make, state, scorer, scored, 2000)
        timed("encode", encode, plan, epoch)
        timed("learn", state.learn, parts, epoch)
        scored = timed("score", turns.score, state, scorer, rules, rules.rows, state.lanes)
    late = {stage: statistics.median(times[steps // 2 :]) for stage, times in spent.items()}
    late["step_to_plan"] = sum(late[stage] for stage in ("decode", "take", "make", "encode"))
    found = {f"{stage}_ms": round(time_spent, 2) for stage, time_spent in late.items()}
    return found | {"pages_a_plan": planner.scored, "scored_share": round(planner.scored_share, 3)}


if __name__ == "__main__":
    main()
