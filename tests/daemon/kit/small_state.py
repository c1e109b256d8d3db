"""A session's state in little, fed with steps that are made up: which pages, who steps and what it tells."""

from __future__ import annotations

from typing import Any

import numpy as np

from hotset.daemon.learners import ALONE, Learners
from hotset.daemon.room import Room
from hotset.daemon.state import SessionState
from hotset.protos.messages import Geometry, SequenceClose, SequenceOpen, Step

LANES, PAGES = 4, 40


def make_state(sequences: int = 3, room: Room | None = None, learners: Learners = ALONE) -> SessionState:
    """Of sequences 0, 1 ... of PAGES pages each, which are known and have not stepped."""
    geometry = Geometry(
        layers=LANES, kv_heads=1, page_size=4, selected=4, candidates=8, page_bytes=64, slots=8 * LANES * sequences,
        groups=PAGES * sequences,
    )  # fmt: skip
    state = SessionState(geometry, room, learners=learners)
    for number in range(sequences):
        open_sequence(state, number)
    state.synced = True
    return state


def open_sequence(state: SessionState, number: int) -> None:
    """Its groups are those of no other."""
    groups = np.arange(PAGES, dtype="<i4") + number * PAGES
    state.open(
        SequenceOpen(sequence=number, prompt_tokens=4 * PAGES, groups=groups, generations=np.full(PAGES, 7, "<u4"))
    )


def churn(state: SessionState, limit: int, stepping: int, grows: bool = False) -> None:
    """79 steps of `stepping` sequences each, some replaced: at none do features hold more than `limit` bytes."""
    rng, count = np.random.default_rng(0), len(state.sequences)
    for epoch in range(1, 80):
        step = make_step(state, epoch, sorted(rng.choice(count, stepping, replace=False).tolist()))
        step.lengths[:] += epoch if grows else 0
        state.step(step)
        assert state.room.used(state.sequences) <= limit
        state.room.check_integrity(state.sequences)
        if epoch % 20 == 0:
            state.close(SequenceClose(sequence=epoch // 20 - 1, tokens=1, reason="x"))
            open_sequence(state, epoch // 20 - 1)
    assert state.room.compactions > 0


def make_step(state: SessionState, epoch: int, who: list[int] | None = None, **changes: Any) -> Step:
    """Each lane of `who`, or of all, selects 4 of 8 pages that are drawn by `epoch`."""
    who = sorted(state.sequences) if who is None else who
    rng, rows = np.random.default_rng(epoch), LANES * len(who)
    pages = np.stack([rng.permutation(PAGES)[:8] for _ in range(rows)]).astype("<i4")
    flags = np.tile(np.array([3, 3, 3, 3, 0, 0, 0, 0], "|u1"), (rows, 1))
    none = np.zeros(0, "<i4")
    fields: dict[str, Any] = {
        "epoch": epoch, "sequences": who, "lengths": np.full(len(who), 4 * PAGES, "<i4"),
        "sequence_steps": np.full(len(who), epoch, "<i4"), "candidates": pages,
        "scores": rng.integers(0, 256, pages.shape, dtype=np.uint8), "flags": flags,
        "new_sequence": np.zeros(0, "<i8"), "new_group": none, "new_generation": np.zeros(0, "<u4"),
        "loaded": none, "evicted": none,
    }  # fmt: skip
    return Step(**(fields | changes))
