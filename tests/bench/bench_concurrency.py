"""The controller against the best fixed concurrency, found by sweep, on a simulated node; one JSON line a workload.

    python tests/bench/bench_concurrency.py [TRACE...] [--loads tuned held-out] [--starts 0 1 8 32 128] [--seeds 1]
        [--fixed 8 12 16] [--equal-lengths] [--jobs 2]

Without a trace it runs on tests/data/sample.parquet. The controller comes while so many run as a start says (0: it is
there from the beginning), and knows nothing; its goodput is that of the whole run, search included, and that of the
second half. The rules of the controller were chosen on the tuned loads; the held-out ones, and other traces, were
only measured. Virtual time: the figures do not depend on the machine.

Answers are of half to all of a load's tokens. With --equal-lengths all are of one length: then a fixed concurrency
runs in lockstep, all sequences starting and ending together, with copies of one recording at the same step.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from multiprocessing import Pool
from pathlib import Path
from typing import Any

import numpy as np

from hotset.ops.simulate.node import Node
from hotset.ops.simulate.run import Job, Load, read_recorded, simulate, workload_of
from hotset.ops.simulate.workload import Workload
from hotset.protos.errors import ConfigError

SAMPLE = Path(__file__).parents[1] / "data" / "sample.parquet"
FIXED = (1, 2, 4, 6, 8, 9, 10, 11, 12, 13, 14, 16, 18, 20, 22, 24, 28, 32, 40, 48, 64, 96, 128)
WINDOW = 64
"""steps over which goodput is judged as converged"""
TOKENS = 80
Loaded = tuple[Load, int, dict[str, float]]
"""Load, most that may run at once, and node; `selections`: slots a lane, of all sequences together, over k."""
LOADS: dict[str, dict[str, Loaded]] = {
    "tuned": {
        "slow link, all at once": (Load(400, tokens=TOKENS), 32, {"selections": 14, "link_gbps": 8}),
        "fast link, poisson": (
            Load(400, "poisson:90", TOKENS), 32, {"selections": 14, "link_gbps": 50, "link_latency_us": 20}
        ),
        "bursts of short requests": (Load(600, "bursts:100:1", 40), 32, {"selections": 14, "link_gbps": 16}),
        "large pool": (Load(600, tokens=TOKENS, seed=3), 128, {"selections": 30, "link_gbps": 12}),
    },
    "held-out": {
        "slow steps, small pool, poisson": (
            Load(300, "poisson:40", 50, seed=11), 64,
            {"selections": 10, "link_gbps": 6, "link_latency_us": 40, "step_us": 3000, "sequence_us": 100},
        ),
        "shared prefixes in bursts": (
            Load(360, "bursts:60:0.5", TOKENS, shared_prefix=0.5, seed=12), 64,
            {"selections": 12, "link_gbps": 25, "step_us": 800},
        ),
        "sequences take the slots' memory": (
            Load(400, tokens=60, seed=13), 48, {"hbm_gib": 0.1, "sequence_mib": 1.0, "link_gbps": 20}
        ),
        "slow start-up of transfers": (
            Load(300, tokens=TOKENS, seed=14), 64,
            {"selections": 16, "link_gbps": 30, "link_latency_us": 200, "step_us": 2500, "sequence_us": 80},
        ),
    },
}  # fmt: skip
Asked = tuple[tuple[Path, ...], str, str, int | None, int, bool, bool]
"""Traces, loads, workload, concurrency or start, seed, whether the controller decides, and are lengths equal."""


def job_of(asked: Asked) -> Job:
    """The simulation that is asked for."""
    traces, loads, name, concurrency, seed, controlled, _ = asked
    load, most, given = LOADS[loads][name]
    meta = read_recorded(traces)[0]
    options: dict[str, Any] = dict(given)
    if "selections" in options:
        options["slots"] = int(options.pop("selections") * meta.selected) * meta.layers * meta.kv_heads
    node = Node(concurrency=most if controlled else concurrency, **options)
    start = concurrency if controlled else None
    return Job(traces, load=replace(load, seed=load.seed + seed), node=node, controller=controlled, start=start)


def run(asked: Asked) -> tuple[Asked, float, dict[str, Any]]:
    """Goodput, and what else is told of a controller; 0 of what does not fit."""
    try:
        job = job_of(asked)
        workload = workload_of(job)
        tally, report = simulate(job, workload if asked[6] else mixed(workload, job.load.seed))
    except ConfigError:
        return asked, 0.0, {}
    about = {
        "second_half": tally.goodput(len(tally.steps) // 2),
        "steps": report["steps"],
        "changes": len({(a.epoch, a.concurrency) for a in tally.advice}),
        "last": next((a.concurrency for a in reversed(tally.advice)), None),
        "windows": [tally.goodput(at, at + WINDOW) for at in range(0, len(tally.steps) - WINDOW, WINDOW // 4)],
    }
    return asked, tally.goodput(), about


def mixed(workload: Workload, seed: int) -> Workload:
    """The same requests, each cut to a random length of at least half."""
    rng = np.random.default_rng(seed)
    return replace(
        workload, requests=[replace(r, steps=int(rng.integers(r.steps // 2, r.steps + 1))) for r in workload.requests]
    )


def bench(pool: Any, traces: tuple[Path, ...], loads: str, name: str, told: argparse.Namespace) -> dict[str, Any]:
    """Sweep, and let the controller find out from every start."""
    most, equal = LOADS[loads][name][1], told.equal_lengths
    sweep: list[Asked] = [
        (traces, loads, name, c, s, False, equal) for s in told.seeds for c in told.fixed if c <= most
    ]
    starts: list[Asked] = [
        (traces, loads, name, c or None, s, True, equal) for s in told.seeds for c in told.starts if c <= most
    ]
    found = pool.map(run, [*sweep, *starts], chunksize=1)
    fixed = {seed: {a[3]: g for a, g, _ in found if not a[5] and a[4] == seed} for seed in told.seeds}
    best = {seed: max(rates, key=rates.__getitem__) for seed, rates in fixed.items()}
    return {
        "workload": name,
        "loads": loads,
        "best_fixed": best,
        "fixed": {c: round(g) for c, g in fixed[told.seeds[0]].items()},
        "controller": [
            _judged(asked, rate, about, fixed[asked[4]][best[asked[4]]]) for asked, rate, about in found if asked[5]
        ],
    }


def _judged(asked: Asked, rate: float, about: dict[str, Any], best: float) -> dict[str, Any]:
    near = (at * WINDOW // 4 for at, r in enumerate(about["windows"]) if r >= 0.95 * best)
    return {
        "start": asked[3] or "beginning", "seed": asked[4], "whole": round(rate / best - 1, 4),
        "second_half": round(about["second_half"] / best - 1, 4), "converged_at_step": next(near, None),
        **{key: about[key] for key in ("steps", "changes", "last")},
    }  # fmt: skip


def main() -> None:
    """One line a workload, and the worst of all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("traces", nargs="*", type=Path, default=[SAMPLE])
    parser.add_argument("--loads", nargs="+", choices=list(LOADS), default=list(LOADS))
    parser.add_argument("--only", nargs="+", help="workloads by name")
    parser.add_argument("--starts", nargs="+", type=int, default=[0, 1, 8, 32, 128])
    parser.add_argument("--fixed", nargs="+", type=int, default=list(FIXED))
    parser.add_argument("--equal-lengths", action="store_true")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--jobs", type=int, default=2)
    told = parser.parse_args()
    worst = 0.0
    with Pool(told.jobs) as pool:
        for loads in told.loads:
            for name in told.only or LOADS[loads]:
                line = bench(pool, tuple(told.traces), loads, name, told)
                worst = min([worst, *(c["whole"] for c in line["controller"])])
                print(json.dumps(line), flush=True)
    print(json.dumps({"worst": worst}))


if __name__ == "__main__":
    main()
