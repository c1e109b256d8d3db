"""What the ghost pool costs a step of 3,072 lanes with 128 candidates: `python tests/bench/bench_ghost.py`."""

from __future__ import annotations

import time

import numpy as np

from hotset.daemon.advice.ghost import Ghost
from hotset.daemon.advice.rules import AdviceRules
from hotset.daemon.state import SessionState
from hotset.protos.messages import Geometry, SequenceOpen, Step

SEQUENCES, LAYERS, HEADS, CANDIDATES, PAGES = 32, 24, 4, 128, 1000
LANES = LAYERS * HEADS
STEPS, SKIPPED = 1200, 200
NONE = np.zeros(0, "<i4")


def make_steps() -> list[Step]:
    """Eight steps of skewed selections, in turn."""
    rng, made = np.random.default_rng(0), []
    for _ in range(8):
        ranks = np.unique(rng.zipf(1.2, (SEQUENCES * LANES, 4 * CANDIDATES)) % (PAGES - 2), axis=1)
        pages = np.full((SEQUENCES * LANES, CANDIDATES), -1, "<i4")
        for row, ranked in enumerate(ranks):
            distinct = np.unique(ranked)[:CANDIDATES]
            pages[row, : len(distinct)] = distinct
        flags = np.where((pages >= 0) & (np.arange(CANDIDATES) < CANDIDATES // 2), 3, 0).astype("|u1")
        made.append(
            Step(
                epoch=0, sequences=list(range(SEQUENCES)), lengths=np.full(SEQUENCES, PAGES * 16 - 10, "<i4"),
                sequence_steps=np.zeros(SEQUENCES, "<i4"), candidates=pages, scores=np.zeros(pages.shape, "|u1"),
                flags=flags, new_sequence=np.zeros(0, "<i8"), new_group=NONE, new_generation=np.zeros(0, "<u4"),
                loaded=NONE, evicted=NONE,
            )
        )  # fmt: skip
    return made


def main() -> None:
    """Print quantiles of one step, by the clock and of the processor."""
    shape = Geometry(
        layers=LAYERS, kv_heads=HEADS, page_size=16, selected=CANDIDATES // 2, candidates=CANDIDATES, page_bytes=4096,
        slots=SEQUENCES * LANES * CANDIDATES, groups=SEQUENCES * PAGES,
    )  # fmt: skip
    state, rules, steps = SessionState(shape), AdviceRules(), make_steps()
    for number in range(SEQUENCES):
        groups = np.arange(number * PAGES, (number + 1) * PAGES, dtype="<i4")
        state.open(
            SequenceOpen(
                sequence=number, prompt_tokens=PAGES * 16 - 20, groups=groups, generations=np.zeros(PAGES, "<u4")
            )
        )
    ghost = Ghost(
        LANES, shape.groups, pages=rules.sample_pages, cells=rules.sample_cells, half_life=rules.half_life, warm_steps=8
    )
    wall, cpu = [], []
    for i in range(STEPS):
        at = np.arange(i, i + SEQUENCES).astype("<i4")
        step = steps[i % len(steps)].model_copy(update={"sequence_steps": at})
        began, spent = time.perf_counter(), time.thread_time()
        ghost.observe(step, state)
        wall.append(1e3 * (time.perf_counter() - began))
        cpu.append(1e3 * (time.thread_time() - spent))
    for name, times in (("clock", wall), ("processor", cpu)):
        p50, p99 = np.quantile(times[SKIPPED:], [0.5, 0.99])
        print(f"{name:10} p50 {p50:.3f} ms  p99 {p99:.3f} ms")
    print(f"sampled 1 page in {1 / ghost.rate:.0f}, of every {ghost.stride}th lane")


if __name__ == "__main__":
    main()
