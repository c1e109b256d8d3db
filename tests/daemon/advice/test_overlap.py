"""Groups on page tables that were made for it: what is shared, what is used, and what it saves."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from hotset.daemon.advice.overlap import MOST_GROUPS, MOST_MEMBERS, Overlap, families_of
from hotset.daemon.state import SessionState
from hotset.protos.messages import Geometry, SequenceOpen, Step

LANES, COLUMNS, PAGE_BYTES = 4, 8, 1000
NONE = np.zeros(0, "<i4")


def table(*groups: int) -> Any:
    return np.array(groups, "<i4")


def state_of(tables: dict[int, Any]) -> SessionState:
    state = SessionState(
        Geometry(
            layers=2, kv_heads=2, page_size=4, selected=COLUMNS, candidates=COLUMNS, page_bytes=PAGE_BYTES,
            slots=1000, groups=10_000,
        )
    )  # fmt: skip
    for number, groups in tables.items():
        state.open(
            SequenceOpen(
                sequence=number, prompt_tokens=4 * len(groups), groups=groups, generations=np.zeros(len(groups), "<u4")
            )
        )
    return state


def step_of(selected: dict[int, list[int]], flags: int = 1) -> Step:
    """Every lane of a sequence selects the same logical pages."""
    pages = np.full((len(selected) * LANES, COLUMNS), -1, "<i4")
    for i, wanted in enumerate(selected.values()):
        pages[i * LANES : (i + 1) * LANES, : len(wanted)] = wanted
    return Step(
        epoch=1, sequences=list(selected), lengths=np.full(len(selected), 64, "<i4"),
        sequence_steps=np.zeros(len(selected), "<i4"), candidates=pages, scores=np.zeros(pages.shape, "|u1"),
        flags=np.where(pages >= 0, flags, 0).astype("|u1"), new_sequence=np.zeros(0, "<i8"), new_group=NONE,
        new_generation=np.zeros(0, "<u4"), loaded=NONE, evicted=NONE,
    )  # fmt: skip


def groups_of(tables: dict[int, Any], selected: dict[int, list[int]], flags: int = 1) -> list[tuple[list[int], int]]:
    overlap = Overlap(PAGE_BYTES)
    overlap.look(step_of(selected, flags), state_of(tables))
    return [(group.sequences, group.bytes_saved) for group in overlap.groups]


def test_families_nest_as_prefixes_do() -> None:
    tables = {
        1: table(0, 1, 2, 3),
        2: table(0, 1, 2, 9),
        3: table(0, 1, 7),
        4: table(0, 8),
        5: table(5, 6),
        6: table(5, 7),
    }
    assert {(tuple(members), depth) for members, depth in families_of(tables)} == {
        ((1, 2), 3), ((1, 2, 3), 2), ((1, 2, 3, 4), 1), ((5, 6), 1),
    }  # fmt: skip


def test_a_page_that_both_use_is_moved_once() -> None:
    tables = {1: table(0, 1, 2, 3), 2: table(0, 1, 2, 4), 3: table(10, 11, 12)}
    # Pages 0 and 1 are shared and used by both; 2 only by one; 3 is another page in each.
    selected = {1: [0, 1, 2, 3], 2: [0, 1, 3], 3: [0, 1, 2]}
    assert groups_of(tables, selected) == [([1, 2], 2 * LANES * PAGE_BYTES)]


def test_what_is_resident_anyway_saves_nothing() -> None:
    tables = {1: table(0, 1), 2: table(0, 2)}
    assert groups_of(tables, {1: [0], 2: [0]}, flags=3) == []


def test_alike_is_not_shared() -> None:
    tables = {1: table(0, 1, 2), 2: table(3, 4, 5)}
    assert groups_of(tables, {1: [0, 1, 2], 2: [0, 1, 2]}) == []


def test_shared_but_not_used_by_both_saves_nothing() -> None:
    tables = {1: table(0, 1, 2), 2: table(0, 1, 3)}
    assert groups_of(tables, {1: [0, 2], 2: [1, 2]}) == []


def test_the_closest_come_first() -> None:
    tables = {1: table(0, 1, 2, 3), 2: table(0, 1, 2, 4), 3: table(0, 5, 6)}
    found = groups_of(tables, {1: [0, 1, 2], 2: [0, 1, 2], 3: [0, 1]})
    assert [sequences for sequences, _ in found] == [[1, 2], [1, 2, 3]]


def test_sketches_estimate_large_overlaps() -> None:
    prefix = list(range(2000))
    tables = {n: table(*prefix, 5000 + n) for n in range(2)}
    overlap, state = Overlap(PAGE_BYTES), state_of(tables)
    wide = np.tile(np.arange(1000, dtype="<i4"), (LANES, 1))
    half = np.tile(np.arange(500, 1500, dtype="<i4"), (LANES, 1))
    message = step_of({0: [0], 1: [0]})
    pages = np.concatenate([wide, half])
    message = message.model_copy(update={"candidates": pages, "flags": np.ones(pages.shape, "|u1")})
    overlap.look(message, state)
    assert overlap.groups[0].bytes_saved == pytest.approx(500 * LANES * PAGE_BYTES, rel=0.25)


def test_a_paused_member_counts_as_it_last_ran_and_one_that_ends_is_gone() -> None:
    tables = {1: table(0, 1, 2), 2: table(0, 1, 3), 3: table(0, 1, 4)}
    overlap, state = Overlap(PAGE_BYTES), state_of(tables)
    overlap.look(step_of({1: [0, 1], 2: [0, 1], 3: [0, 1]}), state)
    overlap.look(step_of({1: [0, 1]}), state)
    assert overlap.groups[0].sequences == [1, 2, 3]
    overlap.forget(3)
    assert overlap.groups[0].sequences == [1, 2]
    overlap.forget(2)
    assert overlap.groups == []


def test_advice_stays_small() -> None:
    tables = {n: table(n // 4, 1000 + n) for n in range(400)}
    tables |= {1000 + n: table(900, 2000 + n) for n in range(100)}
    overlap = Overlap(PAGE_BYTES)
    overlap.look(step_of({n: [0] for n in tables}), state_of(tables))
    assert len(overlap.groups) == MOST_GROUPS
    assert max(len(group.sequences) for group in overlap.groups) <= MOST_MEMBERS
