"""What a daemon believes of a runtime, and that a runtime which lies ends with a ProtocolError."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from hotset.daemon.sequence import table_bytes
from hotset.daemon.state import SessionState, fixed_bytes
from hotset.protos.errors import ConfigError, ProtocolError
from hotset.protos.messages import Geometry, SequenceClose, SequenceOpen, Snapshot, Step

GEOMETRY = Geometry(layers=2, kv_heads=1, page_size=4, selected=2, candidates=4, page_bytes=64, slots=8, groups=10)


def i32(*values: int) -> Any:
    return np.array(values, "<i4")


def u32(*values: int) -> Any:
    return np.array(values, "<u4")


def opened(sequence: int = 5, groups: Any = None) -> SequenceOpen:
    groups = i32(3, 1) if groups is None else groups
    return SequenceOpen(sequence=sequence, prompt_tokens=7, groups=groups, generations=np.full(len(groups), 2, "<u4"))


def step(epoch: int = 1, **changes: Any) -> Step:
    fields: dict[str, Any] = {
        "epoch": epoch, "sequences": [5], "lengths": i32(8), "sequence_steps": i32(0),
        "candidates": i32(0, 1, 1, -1).reshape(2, 2), "scores": np.full((2, 2), 9, "|u1"),
        "flags": np.array([[3, 0], [1, 0]], "|u1"), "new_sequence": np.zeros(0, "<i8"), "new_group": i32(),
        "new_generation": u32(), "loaded": i32(), "evicted": i32(),
    }  # fmt: skip
    return Step(**(fields | changes))


def snapshot(**changes: Any) -> Snapshot:
    fields: dict[str, Any] = {
        "epoch": 9, "sequences": [5, 6], "prompt_tokens": i32(7, 3), "lengths": i32(9, 4),
        "sequence_steps": i32(2, 1), "offsets": i32(0, 3, 4), "groups": i32(3, 1, 4, 7), "generations": u32(2, 2, 0, 1),
        "resident": i32(6, 7),
    }  # fmt: skip
    return Snapshot(**(fields | changes))


@pytest.fixture
def state() -> SessionState:
    made = SessionState(GEOMETRY)
    made.open(opened())
    return made


def test_a_step_moves_pages_and_extends_tables(state: SessionState) -> None:
    new = {"new_sequence": np.array([5, 5, 99], "<i8"), "new_group": i32(1, 8, 2), "new_generation": u32(2, 4, 1)}
    parts = state.step(step(loaded=i32(6, 7), **new))
    # Group 1 is in the table already, and nobody knows sequence 99.
    assert state.sequences[5].groups.tolist() == [3, 1, 8]
    assert state.generations[[3, 1, 8]].tolist() == [2, 2, 4]
    assert np.flatnonzero(state.resident).tolist() == [6, 7]
    assert [(part.sequence.id, part.length, part.step) for part in parts] == [(5, 8, 0)]
    state.step(step(2, evicted=i32(6)))
    assert np.flatnonzero(state.resident).tolist() == [7]
    assert state.epoch == 2


def test_a_snapshot_replaces_tables_and_keeps_what_was_learned(state: SessionState) -> None:
    state.step(step())
    features = state.sequences[5].features
    state.snapshot(snapshot())
    assert state.synced
    assert state.sequences[5].features is features
    assert state.sequences[5].groups.tolist() == [3, 1, 4]
    assert state.sequences[6].groups.tolist() == [7]
    assert np.flatnonzero(state.resident).tolist() == [6, 7]
    state.snapshot(snapshot(sequences=[], prompt_tokens=i32(), lengths=i32(), sequence_steps=i32(), offsets=i32(0),
                            groups=i32(), generations=u32()))  # fmt: skip
    assert state.sequences == {}


def test_a_sequence_never_heard_of_asks_for_a_snapshot(state: SessionState) -> None:
    state.synced = True
    assert state.step(step(sequences=[77])) == []
    assert not state.synced


def test_close_forgets(state: SessionState) -> None:
    state.close(SequenceClose(sequence=5, tokens=9, reason="x"))
    state.close(SequenceClose(sequence=5, tokens=9, reason="x"))
    assert state.sequences == {}


def test_shared_groups_are_noticed(state: SessionState) -> None:
    assert not state.shares_groups()
    state.open(opened(6, i32(3)))
    assert state.shares_groups()


def test_a_long_sequence_grows_its_table(state: SessionState) -> None:
    wide = SessionState(GEOMETRY.model_copy(update={"groups": 2000}))
    wide.open(opened(groups=np.arange(1000, dtype="<i4")[::-1].copy()))
    assert wide.sequences[5].groups.tolist() == list(range(999, -1, -1))


@pytest.mark.parametrize(
    "changes",
    [
        {"candidates": i32(0, 10, 1, 2).reshape(2, 2)},
        {"candidates": i32(0, -2, 1, 1).reshape(2, 2)},
        {"candidates": i32(0, 2, 1, 1).reshape(2, 2)},
        {"flags": np.full((2, 2), 8, "|u1")},
        {"loaded": i32(20)},
        {"loaded": i32(-1)},
        {"evicted": i32(20)},
        {"new_sequence": np.array([5], "<i8"), "new_group": i32(10), "new_generation": u32(0)},
        {"epoch": 0},
        {"sequences": [5, 5], "lengths": i32(8, 8), "sequence_steps": i32(0, 0)},
        {key: np.zeros((2, 5), kind) for key, kind in (("candidates", "<i4"), ("scores", "|u1"), ("flags", "|u1"))},
    ],
)
def test_a_step_that_does_not_fit_is_refused(state: SessionState, changes: dict[str, Any]) -> None:
    state.step(step(0))
    message = step(**({"epoch": 1} | changes))
    with pytest.raises(ProtocolError):
        state.step(message)


def test_groups_and_pages_out_of_range_are_refused(state: SessionState) -> None:
    with pytest.raises(ProtocolError, match="group outside"):
        state.open(opened(6, i32(10)))
    with pytest.raises(ProtocolError, match="page outside"):
        state.snapshot(snapshot(resident=i32(20)))
    with pytest.raises(ProtocolError, match="group outside"):
        state.snapshot(snapshot(groups=i32(3, 1, 4, -1)))


def test_a_lookahead_goes_with_its_sequence(state: SessionState) -> None:
    ranks = i32(1, -1, 0, 1).reshape(2, 2)
    parts = state.step(step(1, lookahead_1=ranks, by_layer=np.zeros((12, GEOMETRY.layers), "<i4")))
    np.testing.assert_array_equal(parts[0].lookahead[1], ranks)


@pytest.mark.parametrize(
    "wrong",
    [
        {"lookahead_1": i32(2, 0, 0, 0).reshape(2, 2)},
        {"lookahead_2": i32(0, 0, 0, -2).reshape(2, 2)},
        {"by_layer": np.zeros((1, GEOMETRY.layers + 1), "<i4")},
    ],
)
def test_what_does_not_fit_of_a_lookahead_ends_the_session(state: SessionState, wrong: dict[str, Any]) -> None:
    with pytest.raises(ProtocolError):
        state.step(step(1, **wrong))


def tables_for(sequences: int) -> int:
    return fixed_bytes(GEOMETRY) + sequences * table_bytes(1, GEOMETRY.lanes)


def test_sequences_beyond_the_bound_are_left_to_the_runtime() -> None:
    state = SessionState(GEOMETRY, tables=tables_for(2))
    state.synced = True
    for number in (5, 6, 7):
        state.open(opened(number))
    assert sorted(state.sequences) == [5, 6]
    assert state.refused == 1
    # Nothing is missing that a snapshot would bring.
    two = {"lengths": i32(8, 8), "sequence_steps": i32(0, 0), "candidates": np.zeros((4, 2), "<i4"),
           "scores": np.zeros((4, 2), "|u1"), "flags": np.zeros((4, 2), "|u1")}  # fmt: skip
    parts = state.step(step(sequences=[5, 7], new_sequence=np.array([7], "<i8"), new_group=i32(8),
                            new_generation=u32(1), **two))  # fmt: skip
    assert [part.sequence.id for part in parts] == [5]
    assert state.synced
    state.close(SequenceClose(sequence=6, tokens=9, reason="x"))
    state.step(step(2, sequences=[5, 7], **two))
    assert not state.synced
    state.snapshot(snapshot(sequences=[5, 7]))
    assert sorted(state.sequences) == [5, 7]
    assert state.refused == 1


def test_a_snapshot_of_too_many_is_taken_in_part() -> None:
    state = SessionState(GEOMETRY, tables=tables_for(1))
    state.open(opened())
    state.snapshot(snapshot())
    assert list(state.sequences) == [5]
    assert (state.refused, state.synced) == (1, True)


def test_a_sequence_that_outgrows_the_bound_is_let_go() -> None:
    wide = GEOMETRY.model_copy(update={"groups": 4096})
    state = SessionState(wide, tables=fixed_bytes(wide) + table_bytes(1000, wide.lanes))
    state.open(opened(groups=i32(0)))
    for epoch in range(1, 40):
        groups = np.arange(100, dtype="<i4") + 100 * epoch
        state.take(step(epoch, lengths=i32(16384), new_sequence=np.full(100, 5), new_group=groups,
                        new_generation=np.zeros(100, "<u4")))  # fmt: skip
        if not state.sequences:
            break
    assert 5 < epoch < 12
    assert state.refused == 1
    state.open(opened(groups=i32(0)))
    assert list(state.sequences) == [5]


def test_a_geometry_beyond_the_bound_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"10 groups of 2 lanes take \d+ bytes, and table_bytes is 99; raise"):
        SessionState(GEOMETRY, tables=99)
