"""The ghost pool's curve against exact replay, and against a stack kept the slow way."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hotset.daemon.advice.ghost import Ghost, make_stack, mix
from hotset.daemon.advice.ghost import _touch as touch
from hotset.daemon.state import SessionState
from hotset.predictor.replay import replay
from hotset.predictor.trace import Trace, read_trace
from hotset.protos.messages import AccessFlag, Geometry, SequenceOpen, Step

SAMPLE = Path(__file__).parents[2] / "data" / "sample.parquet"
NONE = np.zeros(0, "<i4")


@pytest.fixture(scope="module")
def trace() -> Trace:
    return read_trace(SAMPLE)


def feed(trace: Trace, ghost: Ghost, copies: int = 1) -> SessionState:
    """All steps of the trace, `copies` of each sequence with pages of their own."""
    meta = trace.meta
    tables = [s.page_count + 2 for s in trace.sequences] * copies
    first = np.cumsum([0, *tables])
    state = SessionState(
        Geometry(
            layers=meta.layers, kv_heads=meta.kv_heads, page_size=meta.page_size, selected=meta.selected,
            candidates=meta.candidates, page_bytes=meta.page_bytes, slots=1 << 20, groups=int(first[-1]),
        )
    )  # fmt: skip
    sequences = trace.sequences * copies
    for number, sequence in enumerate(sequences):
        groups = np.arange(first[number], first[number + 1], dtype="<i4")
        state.open(
            SequenceOpen(
                sequence=number, prompt_tokens=sequence.prompt_tokens, groups=groups,
                generations=np.zeros(len(groups), "<u4"),
            )
        )  # fmt: skip
    for step in range(min(len(s.steps) for s in sequences)):
        pages = np.concatenate([s.pages[step] for s in sequences])
        flags = np.concatenate([s.flags[step] & AccessFlag.SELECTED for s in sequences])
        ghost.observe(
            Step(
                epoch=step, sequences=list(range(len(sequences))),
                lengths=np.array([s.lengths[step] for s in sequences], "<i4"),
                sequence_steps=np.full(len(sequences), step, "<i4"), candidates=pages,
                scores=np.zeros(pages.shape, "|u1"), flags=flags.astype("|u1"), new_sequence=np.zeros(0, "<i8"),
                new_group=NONE, new_generation=np.zeros(0, "<u4"), loaded=NONE, evicted=NONE,
            ),
            state,
        )  # fmt: skip
    return state


def ghost_of(trace: Trace, copies: int = 1, *, pages: int, cells: int = 1 << 20, touches: int = 1024) -> Ghost:
    lanes = trace.meta.layers * trace.meta.kv_heads
    groups = sum(s.page_count + 2 for s in trace.sequences) * copies
    # Nothing is forgotten, and only the first step is a warm-up, as in replay.
    return Ghost(lanes, groups, pages=pages, cells=cells, half_life=1e9, warm_steps=1, touches=touches)


@pytest.mark.parametrize(
    ("pages", "cells", "touches", "error"),
    [
        (1 << 16, 1 << 20, 1 << 20, 0.02),
        (8192, 1 << 20, 1024, 0.12),
        (1024, 1 << 20, 1024, 0.2),
        (8192, 1024, 1024, 0.2),
    ],
)
def test_the_curve_is_that_of_exact_replay(trace: Trace, pages: int, cells: int, touches: int, error: float) -> None:
    ghost = ghost_of(trace, pages=pages, cells=cells, touches=touches)
    feed(trace, ghost)
    lanes, steps = trace.meta.layers * trace.meta.kv_heads, len(trace.sequences[0].steps) - 1
    for ratio in (1.5, 2, 4, 8):
        exact = replay([trace], "lru", ratio=ratio, pool="shared").demand_misses / steps
        slots = round(ratio * trace.meta.selected) * lanes * len(trace.sequences)
        found = float(ghost.curve().of_pool(np.array(float(slots)), np.array(2.0)))
        assert found == pytest.approx(exact, rel=error)


def test_the_stack_gives_the_distances_of_a_list() -> None:
    rng = np.random.default_rng(0)
    stack = make_stack(300)
    order: list[int] = []
    for _ in range(800):
        page = int(rng.zipf(1.3)) % 300
        expected = order[::-1].index(page) if page in order else -1
        if page in order:
            order.remove(page)
        order.append(page)
        assert touch(stack, page, np.uint64(mix(page))) == expected
