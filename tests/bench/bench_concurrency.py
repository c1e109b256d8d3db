"""The controller against the best fixed concurrency, found by sweep, on a simulated node; one JSON line a workload.

    python tests/bench/bench_concurrency.py [TRACE...]

Without a trace it runs on tests/data/sample.parquet. The controller starts knowing nothing; its goodput is that of the
whole run, search included, and that of its second half. Virtual time: the figures do not depend on the machine.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from hotset.ops.simulate.node import Node
from hotset.ops.simulate.run import Job, Load, simulate
from hotset.ops.simulate.tally import Tally

SAMPLE = Path(__file__).parents[1] / "data" / "sample.parquet"
FIXED = (2, 4, 6, 8, 10, 12, 14, 16, 24, 32)
MOST = 32
WINDOW = 64
"""steps over which goodput is judged as converged"""
PER_LANE = 64 * 14
"""slots a lane for all sequences: 14 selections"""
WORKLOADS: dict[str, tuple[Load, dict[str, float]]] = {
    "slow link, all at once": (Load(sequences=400), {"link_gbps": 8}),
    "fast link, poisson": (Load(sequences=400, arrivals="poisson:90"), {"link_gbps": 50, "link_latency_us": 20}),
    "bursts of short requests": (Load(sequences=600, tokens=40, arrivals="bursts:100:1"), {"link_gbps": 16}),
}


def bench(name: str, traces: tuple[Path, ...], lanes: int) -> dict[str, Any]:
    """Sweep, then let the controller find out."""
    load, node = WORKLOADS[name]
    base = Job(traces, load=load, node=Node(slots=PER_LANE * lanes, **node))
    fixed = {c: _goodput(simulate(_limited(base, c))[0]) for c in FIXED}
    best = max(fixed, key=fixed.__getitem__)
    tally, report = simulate(replace(_limited(base, MOST), controller=True))
    whole, later = _goodput(tally), _goodput(tally, len(tally.steps) // 2)
    return {
        "workload": name,
        "fixed": {c: round(g) for c, g in fixed.items()},
        "best_fixed": best,
        "controller": round(whole),
        "controller_second_half": round(later),
        "against_best": whole / fixed[best] - 1,
        "second_half_against_best": later / fixed[best] - 1,
        "unsteered": round(fixed[MOST]),
        "steps": report["steps"],
        "advised": [(a.epoch, a.concurrency) for a in tally.advice],
        "converged_at_step": _converged(tally, fixed[best]),
    }


def _limited(base: Job, concurrency: int) -> Job:
    return replace(base, node=base.node.model_copy(update={"concurrency": concurrency}))


def _goodput(tally: Tally, first: int = 0, end: int | None = None) -> float:
    """Tokens a second of step time of steps `first` to `end`: time that a node idles is not its own doing."""
    steps = tally.steps[first:end]
    return 1e6 * sum(s.running for s in steps) / sum(s.step_us for s in steps)


def _converged(tally: Tally, best: float) -> int | None:
    """Where the first window of steps begins that is within 5% of the best fixed concurrency."""
    starts = range(0, len(tally.steps) - WINDOW, WINDOW // 4)
    return next((at for at in starts if _goodput(tally, at, at + WINDOW) >= 0.95 * best), None)


def main(arguments: Sequence[str]) -> None:
    """One line a workload."""
    from hotset.predictor.trace import open_trace

    traces = tuple(Path(a) for a in arguments) or (SAMPLE,)
    meta = open_trace(traces[0]).meta
    for name in WORKLOADS:
        print(json.dumps(bench(name, traces, meta.layers * meta.kv_heads)), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
