"""Advice over the wire: a daemon's session before an engine that obeys, or does not."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hotset.daemon.advice.advisor import Advisor
from hotset.daemon.advice.node import Node
from hotset.daemon.advice.rules import AdviceRules
from hotset.daemon.config import DaemonConfig
from hotset.daemon.connection import Connection
from hotset.daemon.scorers import HeuristicScorer
from hotset.daemon.session import Session
from hotset.daemon.state import SessionState
from hotset.daemon.warmup import warm_up
from hotset.protos.messages import Ack, Advice, Capacity, Geometry, Hello, SequenceOpen, Snapshot, Step, StepStats
from hotset.protos.transport import MemoryServer
from hotset.runtime.admission import Admission
from hotset.runtime.link import ControlLink

LIMIT, LANES, COLUMNS, PAGES = 16, 2, 4, 8
SHAPE = Geometry(
    layers=1, kv_heads=2, page_size=4, selected=2, candidates=COLUMNS, page_bytes=64, slots=LIMIT * LANES * PAGES,
    groups=LIMIT * PAGES,
)  # fmt: skip
FIT = 5
NARROW = SHAPE.model_copy(update={"slots": FIT * LANES * 2 * 5 // 4})
CAPACITY = Capacity(device="gpu", max_sequences=LIMIT, least_slots=8)
NONE = np.zeros(0, "<i4")


def opened(sequence: int) -> SequenceOpen:
    """The first page is the same for all even numbers, and for all odd ones."""
    groups = np.arange(sequence * PAGES, (sequence + 1) * PAGES, dtype="<i4")
    groups[0] = sequence % 2 * PAGES
    return SequenceOpen(sequence=sequence, prompt_tokens=30, groups=groups, generations=np.zeros(PAGES, "<u4"))


def stepped(epoch: int, running: list[int], others: int) -> Step:
    """Up to 6 sequences cost nothing more, each beyond them a lot; every page misses."""
    stall = 4000 * max(0, len(running) - 6) ** 2 + 100
    pages = np.tile(np.array([0, 1 + epoch % 5, 6, 7], "<i4"), (len(running) * LANES, 1))
    flags = np.zeros(pages.shape, "|u1")
    flags[:, :2] = 1
    stats = StepStats(
        step_us=10_000 + stall, stall_us=stall, demand_pages=flags.sum(), paused=others, waiting=4
    )  # fmt: skip
    return Step(
        epoch=epoch, sequences=running, stats=stats, lengths=np.full(len(running), 31, "<i4"),
        sequence_steps=np.full(len(running), epoch, "<i4"), candidates=pages, scores=np.zeros(pages.shape, "|u1"),
        flags=flags, new_sequence=np.zeros(0, "<i8"), new_group=NONE, new_generation=np.zeros(0, "<u4"),
        loaded=NONE, evicted=NONE,
    )  # fmt: skip


class Engine:
    """Publishes steps of as many of its sequences as its admission lets run; `obeys` or refuses advice."""

    def __init__(self, *, obeys: bool, shape: Geometry = SHAPE) -> None:
        self.transport = MemoryServer()
        self.link = ControlLink(
            model="m", geometry=shape, builtin_policy="lru", transport=self.transport, capacity=CAPACITY
        )
        self.admission = Admission(LIMIT)
        self.heard: list[Advice] = []
        self.running = list(range(LIMIT))
        self._obeys = obeys
        self._epoch = 0

    def begin(self) -> None:
        for sequence in range(LIMIT):
            self.link.publish(opened(sequence))

    def step(self) -> None:
        if self.link.snapshot_wanted():
            self.link.publish(self._snapshot())
        if (advice := self.link.take_advice()) is not None:
            self.heard.append(advice)
            if self._obeys:
                self.admission.advise(advice)
            self.link.publish(Ack(of="advice", number=advice.number, accepted=self._obeys))
        paused = [n for n in range(LIMIT) if n not in self.running]
        self.running = sorted(self.admission.turn(self.running, paused, 0).run)
        self._epoch += 1
        self.link.publish(stepped(self._epoch, self.running, LIMIT - len(self.running)))

    def _snapshot(self) -> Snapshot:
        tables = [opened(n).groups for n in range(LIMIT)]
        return Snapshot(
            epoch=self._epoch, sequences=list(range(LIMIT)), prompt_tokens=np.full(LIMIT, 30, "<i4"),
            lengths=np.full(LIMIT, 31, "<i4"), sequence_steps=np.zeros(LIMIT, "<i4"),
            offsets=np.arange(LIMIT + 1, dtype="<i4") * PAGES, groups=np.concatenate(tables),
            generations=np.zeros(LIMIT * PAGES, "<u4"), resident=NONE,
        )  # fmt: skip


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.0005)


@pytest.fixture(scope="module", autouse=True)
def compiled() -> None:
    warm_up(HeuristicScorer())


class Served:
    """An engine with a session before it, step by step."""

    def __init__(self, engine: Engine, folder: Path) -> None:
        self.engine, self._stop = engine, threading.Event()
        config = DaemonConfig(log_dir=folder, record=False, advice=AdviceRules(refused_every=300))
        connection = Connection(engine.transport.connect(), "test")
        self.session = Session(connection, config, lambda _silence: True, HeuristicScorer())
        self._thread = threading.Thread(target=self.session.run, args=(self._stop,))
        self._thread.start()
        until(lambda: self.session.sidecar is not None and self.session.sidecar.leads)
        engine.begin()

    def run(self, steps: int) -> None:
        sidecar = self.session.sidecar
        assert sidecar is not None
        for _ in range(steps):
            before = sidecar.status.counters.steps_received
            self.engine.step()
            until(lambda before=before: sidecar.status.counters.steps_received > before)  # type: ignore[misc]

    def end(self) -> None:
        self._stop.set()
        self._thread.join()
        self.engine.link.close()


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., Served]]:
    made: list[Served] = []

    def start(**options: Any) -> Served:
        made.append(Served(Engine(**options), tmp_path))
        return made[-1]

    yield start
    for served in made:
        served.end()


def test_an_engine_that_obeys_comes_to_run_what_pays(serve: Callable[..., Served]) -> None:
    served = serve(obeys=True)
    served.run(700)
    assert len(served.engine.running) in {6, 7}
    last = served.engine.heard[-1]
    assert "tokens/s" in last.reason
    # Neighbours in a group share their first page, and run together.
    assert last.groups
    assert all(len({n % 2 for n in group}) == 1 for group in last.groups)
    assert min(last.bytes_saved) > 0
    assert len(served.engine.heard) < 40
    sidecar = served.session.sidecar
    assert sidecar is not None
    status = sidecar.status.as_dict()
    assert status["counters"]["advice_sent"] - len(served.engine.heard) in {0, 1}
    assert status["advice"]["concurrency"] in range(1, LIMIT + 1)
    stalls = [stall for _, stall in status["advice"]["curve"]]
    assert stalls == sorted(stalls, reverse=True)


def test_an_engine_that_refuses_is_told_seldom(serve: Callable[..., Served]) -> None:
    served = serve(obeys=False)
    served.run(700)
    assert 1 <= len(served.engine.heard) <= 4


def test_who_is_there_from_the_beginning_says_how_many_fit_before_the_first_step(serve: Callable[..., Served]) -> None:
    engine = serve(obeys=True, shape=NARROW).engine
    heard: list[Advice | None] = []

    def is_heard() -> bool:
        heard.append(engine.link.take_advice())
        return heard[-1] is not None

    until(is_heard)
    assert heard[-1] is not None
    assert heard[-1].concurrency == FIT


def hello(session: str, capacity: Capacity, **options: Any) -> Hello:
    return Hello(
        session=session, pid=1, model="m", geometry=options.pop("geometry", SHAPE), epoch=0, builtin_policy="lru",
        controller=True, lease_seconds=3, capacity=capacity, **options,
    )  # fmt: skip


def test_of_sequences_that_run_already_nothing_is_said_before_they_were_watched() -> None:
    assert Advisor(hello("a", CAPACITY, geometry=NARROW, sequences=1), AdviceRules()).advise() is None
    first = Advisor(hello("a", CAPACITY, geometry=NARROW), AdviceRules()).advise()
    assert first is not None
    assert (first.concurrency, first.reason) == (FIT, "as many as fit the hot set")
    assert Advisor(hello("a", CAPACITY, geometry=NARROW), AdviceRules(concurrency=False)).advise() is None
    assert Advisor(hello("a", CAPACITY), AdviceRules()).advise() is None  # all that can run fit


def test_sessions_of_one_device_do_not_take_more_than_it_has() -> None:
    hbm = SHAPE.slots * SHAPE.page_bytes
    capacity = CAPACITY.model_copy(update={"hbm_bytes": hbm, "sequence_bytes": LANES * SHAPE.page_bytes})
    node = Node(device_bytes=hbm)
    advisors = [Advisor(hello(name, capacity), AdviceRules(), node) for name in ("a", "b")]
    states = [SessionState(SHAPE) for _ in advisors]
    for state in states:
        for sequence in range(4):
            state.open(opened(sequence))
    for epoch in range(1, 300):
        for advisor, state in zip(advisors, states, strict=True):
            message = stepped(epoch, [0, 1, 2, 3], 0)
            state.step(message)
            advisor.observe(message, state)
            advisor.advise()
    shares = [advisor.report["device_bytes"] for advisor in advisors]
    assert sum(shares) <= 1.01 * hbm
    assert all(advisor.said is not None and advisor.said.hot_slots is not None for advisor in advisors)
    advisors[0].close()
    for epoch in range(300, 340):
        message = stepped(epoch, [0, 1, 2, 3], 0)
        states[1].step(message)
        advisors[1].observe(message, states[1])
    assert advisors[1].report["device_bytes"] >= shares[1]


def test_advice_that_was_not_sent_is_said_again() -> None:
    advisor, state = Advisor(hello("a", CAPACITY), AdviceRules(speak_every=1, groups=False)), SessionState(SHAPE)
    for sequence in range(LIMIT):
        state.open(opened(sequence))
    said: list[Advice] = []
    for epoch in range(1, 200):
        message = stepped(epoch, list(range(12)), 4)
        state.step(message)
        advisor.observe(message, state)
        if (advice := advisor.advise()) is not None:
            said.append(advice)
            if len(said) == 1:
                advisor.unsaid()
    assert len(said) > 1
    assert said[1].concurrency == said[0].concurrency
    assert said[1].number > said[0].number


@pytest.mark.parametrize("told", [True, False])
def test_steps_that_capture_are_not_what_it_judges_by(told: bool) -> None:
    """Nothing stalls but steps that compile, which take long; not told of that, it takes them for a slow link."""
    met = hello("a", CAPACITY, geometry=SHAPE.model_copy(update={"slots": 2 * LANES * 2 * 5 // 4}), sequences=5)
    advisor, state = Advisor(met, AdviceRules(groups=False, pacing=False)), SessionState(SHAPE)
    for sequence in range(LIMIT):
        state.open(opened(sequence))
    least = 5
    for epoch in range(1, 60):
        message = stepped(epoch, list(range(5)), 0)
        if epoch <= 12:
            slow = message.stats.model_copy(update={"step_us": 1_000_000, "stall_us": 900_000, "warming": told})
            message = message.model_copy(update={"stats": slow})
        state.step(message)
        advisor.observe(message, state)
        if (advice := advisor.advise()) is not None and advice.concurrency:
            least = min(least, advice.concurrency)
    assert (least == 5) == told


def test_switched_off_it_is_silent_and_still_keeps_its_figures() -> None:
    advisor, state = Advisor(hello("a", CAPACITY), AdviceRules(enabled=False)), SessionState(SHAPE)
    state.open(opened(0))
    for epoch in range(1, 200):
        message = stepped(epoch, [0], 4)
        state.step(message)
        advisor.observe(message, state)
        assert advisor.advise() is None
    assert advisor.report["knee_slots"] >= 1
