"""A daemon's session against a real control link in this process, fed by a trace that is played."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from stage import Stage, leads, until

from hotset.daemon.budget import ScoringBudget
from hotset.daemon.config import DaemonConfig, PlanRules
from hotset.daemon.connection import Connection
from hotset.daemon.folders import new_folder
from hotset.daemon.learners import Learners
from hotset.daemon.scorers import HeuristicScorer
from hotset.daemon.sequence import LaneStep, SequenceState
from hotset.daemon.session import Session
from hotset.daemon.warmup import warm_up
from hotset.ops.play import geometry_of
from hotset.predictor.trace import SequenceTrace, read_trace
from hotset.protos.errors import HotsetError, ProtocolError
from hotset.protos.messages import AccessFlag, Detach, Heartbeat, SequenceOpen
from hotset.protos.trace import TraceMeta
from hotset.protos.transport import MemoryServer
from hotset.protos.wire import encode
from hotset.runtime.link import ControlLink

META = TraceMeta(model="tiny", layers=2, kv_heads=2, page_size=4, selected=3, candidates=6, page_bytes=64)


def make_trace(sequence: int, steps: int = 40, pages: int = 20) -> SequenceTrace:
    rng = np.random.default_rng(sequence)
    ranked = np.stack([np.stack([np.sort(rng.permutation(pages)[:6]) for _ in range(4)]) for _ in range(steps)])
    flags = np.zeros(ranked.shape, np.uint8)
    flags[..., :3] = AccessFlag.SELECTED
    lengths = 4 * pages + 1 + np.arange(steps, dtype=np.int32)
    return SequenceTrace(
        sequence, 4 * pages, np.arange(steps, dtype=np.int32), lengths, np.arange(steps, dtype=np.int64),
        ranked.astype(np.int32), rng.integers(0, 256, ranked.shape, dtype=np.uint8), flags,
    )  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def compiled() -> None:
    warm_up(HeuristicScorer())


def make_stage(folder: Path, lease_seconds: float = 3.0) -> Stage:
    return Stage(folder, META, [make_trace(0), make_trace(1)], ratio=1.5, times=9, lease_seconds=lease_seconds)


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    made = make_stage(tmp_path)
    yield made
    made.end()


def steps_of(session: Session) -> int:
    return 0 if session.sidecar is None else session.sidecar.status.counters.steps_received


def read_status(session: Session) -> dict[str, Any]:
    assert session.sidecar is not None
    status: dict[str, Any] = json.loads(session.sidecar.status.path.read_text())
    return status


def test_a_session_plans_from_the_first_steps_and_logs_all_of_them(stage: Stage) -> None:
    session = stage.session()
    until(lambda: leads(session))
    stage.play(40, pause=0.02)
    until(lambda: steps_of(session) == 40)
    stage.end()
    assert session.sidecar is not None
    status = read_status(session)
    counters = status["counters"]
    assert counters["steps_received"] == 40
    assert counters["steps_logged"] == 80
    assert counters["plans_sent"] > 20
    assert stage.player.played.plans > 10
    assert stage.player.played.entries > 0
    assert [phase["phase"] for phase in status["phases"]] == ["attach", "heuristic", "end"]
    log = read_trace(session.sidecar.status.path.parent / "trace")
    assert log.meta.session == stage.link.session
    for recorded, played in zip(log.sequences, stage.traces, strict=True):
        np.testing.assert_array_equal(recorded.pages, played.pages)
        np.testing.assert_array_equal(recorded.selected, played.selected)
        assert recorded.prompt_tokens == played.prompt_tokens


def test_its_sequences_are_learned_side_by_side(stage: Stage) -> None:
    turns: list[int] = []

    class Counting(Learners):
        def observe(self, parts: Sequence[tuple[LaneStep, int]]) -> None:
            turns.append(len(parts))
            super().observe(parts)

    learners = Counting(2)
    session = stage.session(learners=learners)
    until(lambda: leads(session))
    stage.play(20, learned_by=session)
    stage.end_sessions()
    learners.close()
    assert turns[-1] == max(turns) == 2


@pytest.mark.parametrize("fresh", [True, False])
def test_what_saves_less_than_it_costs_is_not_prefetched(
    stage: Stage, fresh: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Be the plan of the newest step, or of values made ahead."""
    monkeypatch.setattr(ScoringBudget, "fits", lambda *_: fresh)
    rules = PlanRules(margin=-100.0, flight_us=1e6)
    session = stage.session(link_gbps=1000.0, rules=rules)
    until(lambda: leads(session))
    stage.play(40)
    assert session.sidecar is not None
    counters = session.sidecar.status.counters
    assert counters.plans_sent > 10
    assert counters.prefetch_sent == 0
    session.configure(
        DaemonConfig(log_dir=stage.folder, link_gbps=1000.0, rules=rules.model_copy(update={"flight_us": 0.0}))
    )
    stage.play(40)
    assert counters.prefetch_sent > 0


def test_what_the_daemon_believes_is_what_is_resident(stage: Stage) -> None:
    session = stage.session()
    until(lambda: leads(session))
    stage.play(95, pause=0.002)
    until(lambda: steps_of(session) == 95)
    assert session.sidecar is not None
    state = session.sidecar.state
    # The player may have prefetched since its last step message; nothing else may differ.
    differs = np.flatnonzero(state.resident != stage.player.pool.resident)
    assert len(differs) == 0
    assert sorted(state.sequences) == [4, 5]


def test_a_runtime_beyond_the_bounds_is_let_go_with_a_reason(tmp_path: Path) -> None:
    """Who claims a page table of terabytes gets none."""
    transport = MemoryServer()
    geometry = geometry_of(META, [make_trace(0)], ratio=1.5).model_copy(update={"groups": 1 << 28})
    with ControlLink(model="tiny", geometry=geometry, builtin_policy="lru", transport=transport) as link:
        session = Session(
            Connection(transport.connect(), "test"), DaemonConfig(log_dir=tmp_path), lambda _silence: True,
            HeuristicScorer(),
        )  # fmt: skip
        session.run(threading.Event())
        until(lambda: not link.attached)
    assert "raise it to steer this process" in session.ended
    assert session.sidecar is None
    assert not list(tmp_path.iterdir())


def test_overload_sheds_lanes_loses_no_step_and_passes(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    observe = SequenceState.observe

    def slowly(sequence: SequenceState, part: LaneStep, watched: int) -> None:
        time.sleep(0.005 * watched)
        observe(sequence, part, watched)

    monkeypatch.setattr(SequenceState, "observe", slowly)
    session = stage.session()
    until(lambda: leads(session))
    stage.play(60, pause=0.002)
    until(lambda: steps_of(session) == 60)
    assert session.sidecar is not None
    status = session.sidecar.status
    assert status.counters.lanes_shed > 0
    assert status.gauges.observed_share < 1.0
    monkeypatch.undo()
    for _ in range(200):
        if status.gauges.observed_share == 1.0:
            break
        stage.play(1, pause=0.03)
    assert status.gauges.observed_share == 1.0
    assert (status.counters.gaps, status.counters.messages_lost) == (0, 0)
    assert session.ended == ""


def test_attaching_in_the_middle_takes_the_state_from_a_snapshot(stage: Stage) -> None:
    stage.play(10, pause=0)
    session = stage.session()
    until(lambda: leads(session))
    stage.play(10)
    until(lambda: steps_of(session) == 10)
    status = session.sidecar.status if session.sidecar else None
    assert status is not None
    assert status.counters.snapshots == 1
    assert status.counters.gaps == 0
    assert status.counters.plans_sent > 0
    assert session.sidecar is not None
    np.testing.assert_array_equal(session.sidecar.state.resident, stage.player.pool.resident)


def test_a_gap_is_repaired_by_a_snapshot(stage: Stage) -> None:
    session = stage.session()
    until(lambda: leads(session))
    stage.play(5)
    until(lambda: steps_of(session) == 5)
    stage.link._server.skip(3)
    assert session.sidecar is not None
    session.sidecar._asked = 0.0
    stage.play(10)
    until(lambda: steps_of(session) == 15)
    counters = session.sidecar.status.counters
    assert (counters.gaps, counters.messages_lost, counters.snapshots) == (1, 3, 2)
    assert session.sidecar.state.synced


def test_a_standby_takes_over_when_the_controller_falls_silent(tmp_path: Path) -> None:
    stage = make_stage(tmp_path, lease_seconds=0.5)
    try:
        silent = Connection(stage.transport.connect(), "silent")
        silent.attach("controller")
        until(lambda: stage.link.attached)
        session = stage.session()
        until(lambda: session.sidecar is not None and session.sidecar.status.reason != "")
        assert session.sidecar is not None
        assert "silent" in session.sidecar.status.reason
        stage.play(3)
        until(lambda: steps_of(session) == 3)
        assert session.sidecar.status.counters.plans_sent == 0
        assert session.sidecar.status.counters.steps_logged == 0
        until(lambda: leads(session))
        stage.play(5, pause=0.02)
        until(lambda: steps_of(session) == 8)
        stage.stop.set()
        until(lambda: session.ended != "")
        assert session.sidecar.status.counters.steps_logged == 10
    finally:
        stage.end()


def test_detach_makes_the_session_let_go(stage: Stage) -> None:
    session = stage.session()
    until(lambda: leads(session))
    person = Connection(stage.transport.connect(), "person")
    person.attach("observer")
    person.send(Detach(target="controller", reason="by hand"))
    until(lambda: session.ended != "")
    assert session.ended == "revoked: by hand"
    until(lambda: read_status(session)["role"] == "ended")


def test_a_dead_process_ends_the_session_and_the_log_is_whole(stage: Stage) -> None:
    session = stage.session()
    until(lambda: leads(session))
    stage.play(7)
    until(lambda: steps_of(session) == 7)
    stage.alive = False
    until(lambda: session.ended != "")
    assert session.ended == "the decode process is gone"
    until(lambda: read_status(session)["role"] == "ended")
    log = read_trace(Path(read_status(session)["log"]) / "trace")
    assert [len(sequence.lengths) for sequence in log.sequences] == [7, 7]


def test_a_runtime_that_breaks_its_geometry_ends_its_session_only(stage: Stage) -> None:
    session = stage.session()
    until(lambda: leads(session))
    stage.play(3)
    until(lambda: steps_of(session) == 3)
    bad = np.array([1 << 30], "<i4")
    stage.link.publish(SequenceOpen(sequence=99, prompt_tokens=4, groups=bad, generations=np.zeros(1, "<u4")))
    until(lambda: session.ended != "")
    assert "group outside" in session.ended
    until(lambda: read_status(session)["role"] == "ended")
    read_trace(Path(read_status(session)["log"]) / "trace")


def test_garbage_from_a_runtime_ends_the_session(stage: Stage) -> None:
    session = stage.session()
    until(lambda: leads(session))
    for peer in stage.link._server.peers.attached():
        stage.transport.send(peer.id, [b"?", b"!", b""])
    until(lambda: session.ended != "")
    assert "sequence number has 1 bytes" in session.ended


def test_a_reload_reaches_a_session_that_runs(stage: Stage) -> None:
    session = stage.session(link_gbps=1.0)
    until(lambda: leads(session))
    stage.play(3, pause=0.02)
    assert session.sidecar is not None
    until(lambda: session.sidecar is not None and session.sidecar.status.counters.plans_sent > 0)
    session.configure(DaemonConfig(log_dir=stage.folder, link_gbps=2.0, plan_every=1 << 20, rules=PlanRules(rows=7)))
    until(lambda: session.sidecar is not None and session.sidecar._budget.gbps == 2.0)
    assert session.sidecar._planner.rules.rows == 7
    before = session.sidecar.status.counters.plans_sent
    stage.play(5, pause=0.02)
    until(lambda: steps_of(session) == 8)
    assert session.sidecar.status.counters.plans_sent == before


def test_two_sessions_never_share_a_folder(stage: Stage) -> None:
    first, second = stage.session(), stage.session()
    until(lambda: first.sidecar is not None and second.sidecar is not None)
    assert first.sidecar is not None
    assert second.sidecar is not None
    assert first.sidecar.status.path != second.sidecar.status.path


def test_a_log_folder_that_cannot_be_made_is_one_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    stage = make_stage(tmp_path / "file")
    try:
        with pytest.raises(HotsetError, match="cannot write logs"):
            new_folder(tmp_path / "file", stage.link._greet(False, ""))
        session = stage.session()
        until(lambda: "cannot write logs" in session.ended)
    finally:
        stage.end()


def test_a_connection_counts_gaps_and_survives_a_restart_of_numbers() -> None:
    server = MemoryServer()
    client = server.connect()
    connection = Connection(client, "x")
    connection.attach("observer")
    received = server.receive(1)
    assert received is not None
    for number in (1, 2, 5, 1, 2):
        server.send(received[0], encode(Heartbeat(), number))
    got = [connection.receive(1) for _ in range(5)]
    assert [g.missing for g in got if g is not None] == [0, 0, 2, 0, 0]


def test_a_runtime_that_floods_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hotset.daemon.connection.MESSAGES_PER_SECOND", 0.001)
    server = MemoryServer()
    connection = Connection(server.connect(), "x")
    connection.attach("observer")
    received = server.receive(1)
    assert received is not None
    server.send(received[0], encode(Heartbeat(), 1))
    with pytest.raises(ProtocolError, match="too many messages or bytes a second"):
        connection.receive(1)
