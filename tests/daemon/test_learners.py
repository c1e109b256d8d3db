"""Steps that several threads learn leave what one leaves: features, what was shed, and the bound on memory."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from small_state import LANES, PAGES, churn, make_state, make_step

from hotset.daemon import learners as learners_module
from hotset.daemon import server
from hotset.daemon.config import DaemonConfig
from hotset.daemon.learners import ALONE, Learners, default_threads
from hotset.daemon.room import Room
from hotset.daemon.sequence import LaneStep, SequenceState
from hotset.daemon.state import SessionState
from hotset.protos.messages import SequenceClose


@pytest.fixture(params=[2, 3, 8])
def learners(request: pytest.FixtureRequest) -> Iterator[Learners]:
    made = Learners(request.param)
    yield made
    made.close()


def known(state: SessionState) -> list[Any]:
    """All that was learned, sequence by sequence."""
    lanes, pages = (a.ravel().astype(np.int32) for a in np.mgrid[:LANES, :PAGES])
    found: list[Any] = [state.learned, state.lanes_shed, state.room.compactions]
    for number, sequence in sorted(state.sequences.items()):
        features = sequence.features
        found += [number, features.steps, features.pages, sequence.stepped_at, sequence.blind.tolist()]
        found += [features.is_compact, None if features.is_compact else features.rows(lanes, pages).tobytes()]
        found.append(features.hot.tobytes())
    return found


def test_they_leave_what_one_leaves(learners: Learners) -> None:
    states = [make_state(5), make_state(5, learners=learners)]
    for state in states:
        for epoch in range(1, 30):
            step = make_step(state, epoch)
            # Sequences outgrow their memory at steps of their own, and less than all is learned.
            step.lengths[:] += (np.arange(len(step.lengths)) * epoch).astype("<i4")
            state.learn(state.take(step), epoch, share=0.55 if epoch % 3 == 0 else 1.0)
            if epoch == 17:
                state.close(SequenceClose(sequence=3, tokens=9, reason="x"))
    assert known(states[0]) == known(states[1])


def test_a_turn_is_a_sequence_a_thread(learners: Learners) -> None:
    state = make_state(5, learners=learners)
    first = list(state.learning(state.take(make_step(state, 1)), 1))
    # In its first step each sequence has its memory made, which is not done side by side.
    assert first == [LANES] * 5
    later = list(state.learning(state.take(make_step(state, 2)), 2))
    full, rest = divmod(5, learners.threads)
    assert later == [LANES * learners.threads] * full + [LANES * rest] * (rest > 0)


def test_who_ends_while_others_learn_learns_no_more(learners: Learners) -> None:
    state = make_state(5, learners=learners)
    state.step(make_step(state, 1))
    gone = [*state.sequences.values()]
    for _ in state.learning(state.take(make_step(state, 2)), 2):
        for number in list(state.sequences):
            state.close(SequenceClose(sequence=number, tokens=9, reason="x"))
    assert sum(sequence.features.steps for sequence in gone) == 5 + min(5, learners.threads)


def test_memory_stays_below_its_cap(learners: Learners) -> None:
    one = make_state(1)
    one.step(make_step(one, 1))
    limit = int(3.6 * one.sequences[0].features.nbytes)
    state = make_state(6, Room(limit=limit, idle_steps=8), learners)
    churn(state, limit, stepping=3, grows=True)


@pytest.mark.parametrize("who", [0, 1, 2])
def test_a_fault_is_told_once_all_have_ended(who: int, monkeypatch: pytest.MonkeyPatch) -> None:
    learners, state = Learners(3), make_state(3)
    turn = [(part, LANES) for part in state.take(make_step(state, 1))]
    go, honest, ended = threading.Event(), SequenceState.observe, []

    def observe(sequence: SequenceState, part: LaneStep, watched: int) -> None:
        if sequence is turn[who][0].sequence:
            go.set()
            raise RuntimeError("broken")
        go.wait(60)
        time.sleep(0.05)  # the fault is known before this one is done
        honest(sequence, part, watched)
        ended.append(sequence.id)

    monkeypatch.setattr(SequenceState, "observe", observe)
    with pytest.raises(RuntimeError, match="broken"):
        learners.observe(turn)
    assert sorted(ended) == [i for i in range(3) if i != who]
    learners.close()


def test_threads_that_another_session_keeps_busy_are_not_waited_for() -> None:
    learners, free, state = Learners(3), threading.Event(), make_state(5)
    assert learners._others is not None
    busy = [learners._others.submit(free.wait, 60) for _ in range(2)]
    learners.observe([(part, LANES) for part in state.take(make_step(state, 1))])
    assert [sequence.features.steps for sequence in state.sequences.values()] == [1] * 5
    assert not any(future.done() for future in busy)
    free.set()
    learners.close()


def test_all_threads_are_there_from_the_start() -> None:
    before = threading.active_count()
    learners = Learners(4)
    assert threading.active_count() == before + 3
    learners.close()
    assert threading.active_count() == before


def test_alone_all_are_observed() -> None:
    state = make_state(3)
    ALONE.observe([(part, LANES) for part in state.take(make_step(state, 1))])
    ALONE.observe([])
    assert [sequence.features.steps for sequence in state.sequences.values()] == [1] * 3


def test_a_daemon_hands_them_to_its_sessions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOTSET_RUNTIME_DIR", str(tmp_path / "run"))
    given: list[Learners] = []

    def session(connection: Any, *_: Any, learners: Learners, **__: Any) -> Any:
        given.append(learners)
        return SimpleNamespace(run=lambda _stop: connection.close(), sidecar=None, ended="", turned=time.monotonic())

    monkeypatch.setattr(server, "Session", session)
    monkeypatch.setattr(server, "warm_up", lambda _scorer: None)
    monkeypatch.setattr("sys.setswitchinterval", lambda _seconds: None)
    config = DaemonConfig(log_dir=tmp_path, learn_threads=3, endpoint=f"ipc://{tmp_path}/sock", poll_seconds=0.01)
    server.Daemon(config).serve()
    assert [learners.threads for learners in given] == [3]


@pytest.mark.parametrize(("cores", "threads"), [(1, 1), (2, 1), (4, 1), (8, 2), (16, 4), (128, 8)])
def test_as_many_as_the_cores_allow(cores: int, threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(learners_module, "usable_cores", lambda: cores)
    assert default_threads() == threads
