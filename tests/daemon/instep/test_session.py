"""A daemon's session against an engine that looks ahead: the recorded sample is played."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hotset.daemon.config import DaemonConfig
from hotset.daemon.connection import Connection
from hotset.daemon.scorers import HeuristicScorer, LearnedScorer
from hotset.daemon.session import Session
from hotset.daemon.warmup import warm_up
from hotset.ops.play import InsideStep, TracePlayer, geometry_of
from hotset.predictor.experiments.fit import device_rows, fit, reuse_rows
from hotset.predictor.model import PUSHED_FILE
from hotset.predictor.trace import Trace, read_trace
from hotset.protos.errors import ModelError
from hotset.protos.messages import InStep, LayerFigure
from hotset.protos.transport import MemoryServer
from hotset.runtime.link import ControlLink

WAIT = 20.0


@pytest.fixture(scope="module")
def folder(sample: Trace, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with heads for the device, trained on the sample's code."""
    warm_up(HeuristicScorer())
    code = Trace(sample.meta, sample.sequences[:1])
    values, uses = device_rows(code, fraction=0.2, seed=0)
    assert uses is not None
    made = tmp_path_factory.mktemp("model")
    fit([reuse_rows(code, fraction=0.05, seed=0)], device=[(values, uses)]).save(made)
    return made


class Stage:
    """The sample's documents behind a link, and daemons in front of it, each on its thread."""

    def __init__(self, folder: Path, sample: Trace, in_step: InStep | None = None) -> None:
        self.folder = folder
        docs = sample.sequences[1:]
        geometry = geometry_of(sample.meta, docs, ratio=2.0)
        self.inside = InsideStep(sample.meta, docs)
        self.transport = MemoryServer()
        self.link = ControlLink(
            model="tiny", geometry=geometry, builtin_policy="lru", transport=self.transport,
            in_step=self.inside.in_step if in_step is None else in_step,
        )  # fmt: skip
        self.player = TracePlayer(sample.meta, docs, self.link, geometry, times=4, inside=self.inside)
        self.stop = threading.Event()
        self.threads: list[threading.Thread] = []

    def session(self, scorer: LearnedScorer | HeuristicScorer, **options: Any) -> Session:
        config = DaemonConfig(log_dir=self.folder, **options)
        made = Session(Connection(self.transport.connect(), "test"), config, lambda _: True, scorer)
        self.threads.append(threading.Thread(target=made.run, args=(self.stop,)))
        self.threads[-1].start()
        until(lambda: made.sidecar is not None and made.sidecar.leads)
        return made

    def play(self, steps: int, session: Session) -> None:
        """Play, and wait after every step until the daemon has learned it."""
        assert session.sidecar is not None
        for _ in range(steps):
            seen = session.sidecar.status.counters.steps_received
            assert self.player.step()
            self.player.pool.check_integrity()
            self.player.engine.tables.check_integrity()
            until(lambda seen=seen: session.sidecar.status.counters.steps_received > seen)  # type: ignore[misc]

    def end_sessions(self) -> None:
        self.stop.set()
        for thread in self.threads:
            thread.join()
        self.stop, self.threads = threading.Event(), []

    def end(self) -> None:
        self.end_sessions()
        self.link.close()


@pytest.fixture
def stage(tmp_path: Path, sample: Trace) -> Iterator[Stage]:
    made = Stage(tmp_path, sample)
    yield made
    made.end()


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + WAIT
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.002)


def counters(session: Session) -> Any:
    assert session.sidecar is not None
    return session.sidecar.status.counters


def phases(session: Session) -> list[str]:
    assert session.sidecar is not None
    return [phase["phase"] for phase in session.sidecar.status.phases]


def in_step(session: Session) -> dict[str, Any]:
    assert session.sidecar is not None
    return session.sidecar._in_step.report()


def test_a_model_is_pushed_acknowledged_and_decides(stage: Stage, folder: Path) -> None:
    scorer = LearnedScorer.load(folder)
    session = stage.session(scorer, link_gbps=50.0)
    stage.play(6, session)
    until(lambda: counters(session).models_pushed == 1 and "push_accepted" in phases(session))
    stage.play(40, session)
    assert stage.inside.version == scorer.version
    assert in_step(session)["model"] == {"state": "in force", "version": scorer.version, "reason": ""}
    assert counters(session).models_pushed == 1
    assert stage.player.played.inside_pages > 200
    assert session.sidecar is not None
    tally, gauges = session.sidecar._in_step.tally, session.sidecar.status.gauges
    # Figures by layer are those of the engine, and precision and coverage make sense.
    assert tally.total[LayerFigure.STEP_PAGES].sum() == stage.player.played.inside_pages
    assert tally.total[LayerFigure.DEMAND_PAGES].sum() == counters(session).demand_pages
    assert tally.total[LayerFigure.STEP_PAGES, 0] == 0
    assert 0.3 < gauges.step_precision <= 1.0  # type: ignore[operator]
    assert 0.2 < gauges.step_coverage <= 1.0  # type: ignore[operator]
    # An idle link lets the thresholds fall to the floor of the rules, and the engine has taken them.
    assert counters(session).lookaheads_sent > 0
    assert counters(session).lookaheads_refused == 0
    assert (stage.inside.least[1:] < 0.45).all()


def test_a_link_that_demand_fills_stops_prefetching_in_the_step(stage: Stage, folder: Path) -> None:
    session = stage.session(LearnedScorer.load(folder), link_gbps=1e-5)
    stage.play(70, session)
    before = stage.player.played.inside_pages
    stage.play(30, session)
    assert stage.inside.least[1:].min() > 0.8
    assert stage.inside.pages.max() <= 1
    assert stage.player.played.inside_pages - before <= 30 * stage.inside.pages.sum()


def test_the_log_holds_the_ranks_that_were_acted_on(stage: Stage, sample: Trace) -> None:
    session = stage.session(HeuristicScorer())
    stage.play(12, session)
    stage.end_sessions()
    assert session.sidecar is not None
    (logged,) = read_trace(session.sidecar.status.path.parent / "trace").sequences
    played = sample.sequences[1]
    np.testing.assert_array_equal(logged.lookahead[1], played.lookahead[1][:12])
    assert (logged.lookahead[2] == -1).all()
    assert in_step(session)["model"]["reason"] == "no model is in service"


def test_a_daemon_that_comes_again_pushes_again(stage: Stage, folder: Path) -> None:
    scorer = LearnedScorer.load(folder)
    for turn in range(1, 3):
        session = stage.session(scorer)
        stage.play(6, session)
        until(lambda: "push_accepted" in phases(session))  # noqa: B023
        assert counters(session).models_pushed == 1, turn
        stage.end_sessions()


def test_a_refused_model_is_told_once(tmp_path: Path, sample: Trace, folder: Path) -> None:
    stage = Stage(tmp_path, sample)
    stage.inside.take = lambda model: "foreign: other features"  # type: ignore[method-assign]
    session = stage.session(LearnedScorer.load(folder))
    stage.play(20, session)
    until(lambda: "push_refused" in phases(session))
    stage.play(20, session)
    assert (counters(session).models_pushed, counters(session).models_refused) == (1, 1)
    assert in_step(session)["model"]["reason"] == "foreign: other features"
    assert phases(session).count("push_refused") == 1
    stage.end()


def test_an_engine_that_takes_none_gets_none(tmp_path: Path, sample: Trace, folder: Path) -> None:
    stage = Stage(tmp_path, sample, in_step=InStep())
    session = stage.session(LearnedScorer.load(folder), link_gbps=50.0)
    stage.play(12, session)
    assert (counters(session).models_pushed, counters(session).lookaheads_sent) == (0, 0)
    assert in_step(session)["model"]["state"] == "closed"
    stage.end()


def test_a_file_that_is_damaged_is_never_pushed(folder: Path, tmp_path: Path) -> None:
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    data = bytearray((tmp_path / PUSHED_FILE).read_bytes())
    data[-9] ^= 0x10
    (tmp_path / PUSHED_FILE).write_bytes(data)
    with pytest.raises(ModelError, match="damaged"):
        LearnedScorer.load(tmp_path)
