"""Ingest at rate: what observing costs alone, and a session that keeps up with a paced runtime over ipc.

    python tests/bench/bench_ingest.py [--sequences 64] [--rate 4e6] [--seconds 15] [--record] [--threads 1]

An access is a selected page; candidates are twice as many. Prints one JSON object a part: `features` (one core, no
wire; `echoes_every_step` also finds the echoes of all layers after each step), `learning` (steps of all sequences, by
one thread and by more, in turns), `memory`, `ipc` (another process publishes; this one runs a real session with the
heuristic; no gap and no drop must show), `overload` (the same at eight times the rate: what is shed).
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
from daemon_load import (  # type: ignore[import-not-found]
    CANDIDATES,
    HEADS,
    LANES,
    LAYERS,
    PAGE_SIZE,
    PAGES,
    SELECTED,
    Node,
    made_steps,
    start,
)

from hotset.daemon.config import DaemonConfig
from hotset.daemon.connection import Connection
from hotset.daemon.learners import Learners
from hotset.daemon.scorers import HeuristicScorer
from hotset.daemon.server import SWITCH_SECONDS
from hotset.daemon.session import Session
from hotset.daemon.state import SessionState
from hotset.daemon.turns import Scorer
from hotset.daemon.warmup import warm_up
from hotset.predictor.features import FeatureState
from hotset.protos import discovery
from hotset.protos.transport import ZmqClient


def main() -> None:
    """Measure all parts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sequences", type=int, default=64)
    parser.add_argument("--rate", type=float, default=4e6, help="selected pages a second")
    parser.add_argument("--seconds", type=float, default=15.0)
    parser.add_argument("--record", action="store_true", help="write the trace log, too")
    parser.add_argument("--threads", type=int, default=1, help="that learn in the sessions")
    told = parser.parse_args()
    for every in (False, True):
        print(json.dumps({"features": features(told.sequences, echoes=every)}), flush=True)
    print(json.dumps({"learning": learning(told.sequences)}), flush=True)
    print(json.dumps({"memory": memory()}), flush=True)
    options = {"sequences": told.sequences, "seconds": told.seconds}
    for part, rate in (("ipc", told.rate), ("overload", 8 * told.rate)):
        found = served(HeuristicScorer(), told.record, told.threads, rate=rate, **options)
        print(json.dumps({part: found}), flush=True)


def features(sequences: int, *, echoes: bool, steps: int = 24) -> dict[str, Any]:
    """Observe steps of all sequences in turn, as a batch decodes; seconds are of this thread's processor."""
    pages, scores = made_steps()
    selected = np.zeros((LANES, CANDIDATES), np.bool_)
    selected[:, :SELECTED] = True
    states = [_state() for _ in range(sequences)]
    lanes, first = np.arange(LANES, dtype=np.int32), np.zeros(LANES, np.int32)
    cpu, wall = [], []
    for t in range(steps + 8):
        began, ticked = time.thread_time(), time.perf_counter()
        for i, state in enumerate(states):
            at = (t + 7 * i) % len(pages)
            state.observe(PAGES * PAGE_SIZE, pages[at], scores[at], selected)
            if echoes:
                state.rows(lanes, first)
        cpu.append((time.thread_time() - began) / sequences)
        wall.append((time.perf_counter() - ticked) / sequences)
    cpu, wall = cpu[8:], wall[8:]
    accesses = LANES * SELECTED
    return {
        "sequences": sequences, "lanes": LANES * sequences, "echoes_every_step": echoes,
        "cpu_us_a_sequence_step": round(statistics.median(cpu) * 1e6), "least": round(min(cpu) * 1e6),
        "wall_us": round(statistics.median(wall) * 1e6),
        "accesses_per_cpu_s": round(accesses / statistics.median(cpu)),
        "candidates_per_cpu_s": round(LANES * CANDIDATES / statistics.median(cpu)),
    }  # fmt: skip


def learning(sequences: int, steps: int = 40) -> dict[str, Any]:
    """A step of all sequences by the clock, median, learned by so many threads."""
    node = Node(sequences, 50_000)
    counts = [n for n in (1, 2, 4, 8) if n <= len(os.sched_getaffinity(0))]
    states = {threads: SessionState(node.shape, learners=Learners(threads)) for threads in counts}
    took: dict[int, list[float]] = {threads: [] for threads in counts}
    for state in states.values():
        state.snapshot(node.snapshot(0))
    for epoch in range(1, steps + 1):
        message = node.step(epoch)
        for threads, state in states.items():
            parts = state.take(message)
            began = time.perf_counter()
            state.learn(parts, epoch)
            took[threads].append(time.perf_counter() - began)
    for state in states.values():
        state.learners.close()
    medians = {threads: statistics.median(seconds[8:]) for threads, seconds in took.items()}
    selected = sequences * LANES * SELECTED
    return {str(n): {"ms": round(1e3 * s, 2), "accesses_a_second": round(selected / s)} for n, s in medians.items()}


def memory() -> dict[str, float]:
    """Bytes a page of a lane, whole and compact, and what a 30K-token sequence takes."""
    state = _state()
    pages = LANES * state.pages
    whole = state.nbytes
    state.compact()
    return {
        "bytes_a_page": round(whole / pages, 1), "compact": round(state.nbytes / pages, 1),
        "sequence_mb": round(whole / 1e6, 1), "sequence_mb_compact": round(state.nbytes / 1e6, 1),
    }  # fmt: skip


def served(scorer: Scorer, record: bool, threads: int = 1, **options: float) -> dict[str, Any]:
    """Run a session against the load in another process; what both say of it."""
    with tempfile.TemporaryDirectory(prefix="hs") as name:
        folder = discovery.private_dir(Path(name) / "run")
        load = start(folder, **options)
        while not (found := discovery.find_runtimes(folder)):
            time.sleep(0.05)
        warm_up(scorer)
        sys.setswitchinterval(SWITCH_SECONDS)  # as the daemon does
        config = DaemonConfig(log_dir=Path(name) / "log", record=record)
        client = ZmqClient(found[0].endpoint)
        connection, learners = Connection(client, "bench"), Learners(threads)
        session = Session(connection, config, lambda _silence: load.poll() is None, scorer, learners=learners)
        thread = threading.Thread(target=session.run, args=(threading.Event(),))
        began, used = time.perf_counter(), time.process_time()
        thread.start()
        shares = []
        while load.poll() is None:
            time.sleep(0.25)
            if session.sidecar is not None:
                gauges = session.sidecar.status.gauges
                shares.append((gauges.observed_share, gauges.scored_share or 0.0))
        spent, took = time.process_time() - used, time.perf_counter() - began
        thread.join()
        learners.close()
        assert session.sidecar is not None
        assert load.stdout is not None
        told: dict[str, Any] = json.loads(load.stdout.read())
        return report(session, shares) | {"daemon_process_share": round(spent / took, 2)} | told


def report(session: Session, shares: list[tuple[float, float]]) -> dict[str, Any]:
    """What the daemon says."""
    assert session.sidecar is not None
    status = session.sidecar.status
    counters = status.counters
    late = shares[len(shares) // 3 :]
    return {
        "received": counters.steps_received, "gaps": counters.gaps, "lost": counters.messages_lost,
        "least_observed_share": min(share for share, _ in shares), "lanes_shed": counters.lanes_shed,
        "observed_share": round(statistics.median(observed for observed, _ in late), 3),
        "scored_share": round(statistics.median(scored for _, scored in late), 3),
        "scored_rows_a_plan": round(counters.entries_sent / max(1, counters.plans_sent)),
        "arrival_to_sent_ms": {q: round(s * 1e3, 2) for q, s in status.plan_quantiles().items()},
        "state_mb": round(status.gauges.state_bytes / 1e6), "log_dropped": counters.log_dropped, "ended": session.ended,
    }  # fmt: skip


def _state() -> FeatureState:
    return FeatureState(layers=LAYERS, kv_heads=HEADS, page_size=PAGE_SIZE, selected=SELECTED, pages=PAGES)


if __name__ == "__main__":
    main()
