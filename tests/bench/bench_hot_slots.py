"""The advised hot set against a sweep of fixed ones, on a simulated node; one JSON line a load.

    python tests/bench/bench_hot_slots.py [TRACE...] [--jobs 2] [--only NAME...]

    split    hot slots and running sequences share one memory. Fixed: so many hot slots, and the sequences that the rest
             has room for. Advised: the daemon names both, from no knowledge; its search is counted
    knee     a pool larger than need be, for a fixed number of sequences. The daemon watches and reports the knee of its
             curve, the least pool that should make a step longer by 1% at most; then the load runs with that pool

Goodput in tokens a second of step time. Virtual time: the figures do not depend on the machine.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from multiprocessing import Pool
from pathlib import Path
from typing import Any

from hotset.ops.simulate.engine import Engine
from hotset.ops.simulate.node import Memory, Node
from hotset.ops.simulate.run import Job, Load, simulate, wire_of, workload_of
from hotset.ops.simulate.wire import Wire
from hotset.protos.messages import Advice

SAMPLE = Path(__file__).parents[1] / "data" / "sample.parquet"
SHARES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95)
"""of the memory, that the hot set has"""
SPLITS: dict[str, tuple[Load, dict[str, float]]] = {
    "large sequences, slow link": (
        Load(240, tokens=60, seed=1), {"hbm_gib": 0.1, "sequence_mib": 3.0, "link_gbps": 12}
    ),
    "small sequences, fast link": (
        Load(240, tokens=60, seed=2), {"hbm_gib": 0.06, "sequence_mib": 0.75, "link_gbps": 40}
    ),
    "costly waits, poisson": (
        Load(240, "poisson:60", 60, seed=3),
        {"hbm_gib": 0.08, "sequence_mib": 2.0, "link_gbps": 25, "link_latency_us": 100, "step_us": 3000},
    ),
}  # fmt: skip
KNEES: dict[str, tuple[Load, dict[str, float]]] = {
    "8 at once, slow link": (Load(64, tokens=80, seed=4), {"concurrency": 8, "ratio": 4, "link_gbps": 8}),
    "12 at once, fast link": (Load(96, tokens=60, seed=5), {"concurrency": 12, "ratio": 3, "link_gbps": 50}),
}


class Fixed(Wire):
    """Nobody listens; one advice was given before the first step."""

    def __init__(self, advice: Advice) -> None:
        self._advice: Advice | None = advice

    def take_advice(self) -> Advice | None:
        """See Wire."""
        advice, self._advice = self._advice, None
        return advice


def with_slots(asked: tuple[Job, int]) -> dict[str, float]:
    """A run with a hot set of so many slots."""
    job, slots = asked
    engine = Engine(workload_of(job), job.node, Fixed(Advice(number=1, hot_slots=slots)))
    tally = engine.run()
    return {
        "slots": slots,
        "goodput": round(tally.goodput()),
        "running": round(tally.total("running") / len(tally.steps), 1),
        "stall": round(tally.total("stall_us") / tally.total("step_us"), 3),
    }


def split(pool: Any, name: str, traces: tuple[Path, ...]) -> dict[str, Any]:
    """Sweep the split, and let the daemon name it."""
    load, given = SPLITS[name]
    job = Job(traces, load=load, node=Node(**given))
    workload = workload_of(job)
    everything = Memory(job.node, workload).hbm_bytes // workload.meta.page_bytes
    advised = pool.apply_async(simulate, [replace(job, controller=True)])
    fixed = pool.map(with_slots, [(job, int(share * everything)) for share in SHARES], chunksize=1)
    best = max(fixed, key=lambda run: run["goodput"])
    tally, report = advised.get()
    return {
        "split": name, "memory_slots": everything, "fixed": fixed, "best": best, "advised": round(tally.goodput()),
        "against_best": round(tally.goodput() / best["goodput"] - 1, 4),
        "second_half": round(tally.goodput(len(tally.steps) // 2) / best["goodput"] - 1, 4),
        "last": [(a.epoch, a.concurrency, a.hot_slots) for a in tally.advice][-3:], "steps": report["steps"],
    }  # fmt: skip


def knee(name: str, traces: tuple[Path, ...]) -> dict[str, Any]:
    """What the curve says of the least pool, and what that pool does."""
    load, given = KNEES[name]
    job = Job(traces, policy="builtin", load=load, node=Node(**given))
    workload = workload_of(job)
    watched = replace(job, policy="heuristic")
    with wire_of(watched, workload) as wire:
        engine = Engine(workload, watched.node, wire)
        engine.run()
        report = wire.session.sidecar.status.advice  # type: ignore[attr-defined]
    most = engine.memory.most_slots
    runs = {share: with_slots((job, int(share * report["knee_slots"]))) for share in (1.0, 0.75)}
    whole = with_slots((job, most))["goodput"]
    return {
        "knee": name, "slots": most, "goodput": whole, "knee_slots": report["knee_slots"],
        "at_knee": round(runs[1.0]["goodput"] / whole - 1, 4),
        "at_three_quarters_of_it": round(runs[0.75]["goodput"] / whole - 1, 4),
    }  # fmt: skip


def main() -> None:
    """One line a load."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("traces", nargs="*", type=Path, default=[SAMPLE])
    parser.add_argument("--only", nargs="+", default=[*SPLITS, *KNEES])
    parser.add_argument("--jobs", type=int, default=2)
    told = parser.parse_args()
    traces = tuple(told.traces)
    with Pool(told.jobs) as pool:
        for name in told.only:
            line = split(pool, name, traces) if name in SPLITS else knee(name, traces)
            print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
