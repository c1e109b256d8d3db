"""A session on a simulated clock, where learning costs time: plans in time under overload, and what is shed for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import lightgbm as lgb
import numpy as np
import pytest

from hotset.daemon.config import DaemonConfig
from hotset.daemon.connection import Connection
from hotset.daemon.load import LONGEST, PATIENCE
from hotset.daemon.rule import GUARDED
from hotset.daemon.scorers import HeuristicScorer, LearnedScorer
from hotset.daemon.sequence import SETTLE, LaneStep, SequenceState
from hotset.daemon.session import Session
from hotset.daemon.warmup import warm_up
from hotset.predictor import recipe
from hotset.predictor.model import ModelCard, ReuseModel
from hotset.protos.features import FEATURES
from hotset.protos.messages import (
    Geometry,
    Hello,
    Message,
    Plan,
    SequenceClose,
    SequenceOpen,
    Snapshot,
    Step,
    StepStats,
)
from hotset.protos.wire import Frame, decode, encode

SEQUENCES, LANES, PAGES = 8, 4, 40
PERIOD = 0.01
GEOMETRY = Geometry(
    layers=LANES, kv_heads=1, page_size=4, selected=4, candidates=8, page_bytes=64, slots=8 * LANES * SEQUENCES,
    groups=PAGES * SEQUENCES,
)  # fmt: skip
NONE = np.zeros(0, "<i4")


class Runtime:
    """A transport with a runtime behind it that decodes a step every PERIOD of simulated seconds."""

    def __init__(self) -> None:
        self.now = 0.0
        self.epoch = 0
        self.published: dict[int, float] = {}
        self.plans: list[tuple[float, Plan]] = []
        self._due: list[tuple[float, Message]] = []
        self._sent = 0
        hello = Hello(
            session="s", pid=1, model="m", geometry=GEOMETRY, epoch=0, builtin_policy="lru", controller=True,
            lease_seconds=3600.0,
        )  # fmt: skip
        self.say(hello, 0.0)
        for number in range(SEQUENCES):
            self.open(number)

    def say(self, message: Message, due: float) -> None:
        self._due.append((due, message))

    def open(self, number: int) -> None:
        groups = np.arange(PAGES, dtype="<i4") + number % SEQUENCES * PAGES
        opening = SequenceOpen(
            sequence=number, prompt_tokens=4 * PAGES, groups=groups, generations=np.zeros(PAGES, "<u4")
        )
        self.say(opening, self.now)

    def decode(self, steps: int, period: float = PERIOD, who: Sequence[int] = range(SEQUENCES)) -> None:
        """So many steps from now on."""
        rng, start = np.random.default_rng(self.epoch), self.now
        for i in range(1, steps + 1):
            self.epoch += 1
            self.published[self.epoch] = start + i * period
            self.say(self._step(rng, list(who), period), start + i * period)

    def _step(self, rng: np.random.Generator, who: list[int], period: float) -> Step:
        rows = LANES * len(who)
        pages = np.stack([rng.permutation(PAGES)[:8] for _ in range(rows)]).astype("<i4")
        loaded = np.unique(rng.integers(0, PAGES * LANES * SEQUENCES, 20)).astype("<i4")
        return Step(
            epoch=self.epoch, sequences=who, lengths=np.full(len(who), 4 * PAGES, "<i4"),
            sequence_steps=np.full(len(who), self.epoch, "<i4"), candidates=pages,
            scores=rng.integers(0, 256, pages.shape, dtype=np.uint8),
            flags=np.tile(np.array([3, 3, 3, 3, 0, 0, 0, 0], "|u1"), (rows, 1)), new_sequence=np.zeros(0, "<i8"),
            new_group=NONE, new_generation=NONE.astype("<u4"), loaded=loaded, evicted=NONE,
            stats=StepStats(step_us=int(1e6 * period), reserve=8),
        )  # fmt: skip

    def snapshot(self, sequences: list[int]) -> None:
        count = len(sequences)
        full = np.full(count, 4 * PAGES, "<i4")
        message = Snapshot(
            epoch=self.epoch, sequences=sequences, prompt_tokens=full, lengths=full, sequence_steps=full,
            offsets=np.arange(count + 1, dtype="<i4") * PAGES,
            groups=np.concatenate([np.arange(PAGES) + n % SEQUENCES * PAGES for n in sequences]).astype("<i4"),
            generations=np.zeros(count * PAGES, "<u4"), resident=NONE,
        )  # fmt: skip
        self.say(message, self.now)

    def receive(self, timeout: float) -> list[Frame] | None:
        """See ClientTransport."""
        if not self._due or self._due[0][0] > self.now + timeout:
            self.now += timeout
            return None
        due, message = self._due.pop(0)
        self.now = max(self.now, due)
        self._sent += 1
        return encode(message, self._sent)

    def send(self, frames: Sequence[Frame]) -> bool:
        """See ClientTransport."""
        message = decode(frames)[1]
        if isinstance(message, Plan):
            self.plans.append((self.now, message))
        return True

    def close(self) -> None:
        """See ClientTransport."""

    @property
    def quiet(self) -> bool:
        return not self._due


class Stage:
    """A session whose clock is the runtime's; `cost` is what it takes to observe a lane."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.runtime = Runtime()
        self.cost: Callable[[SequenceState], float] = lambda _sequence: 0.0
        observe = SequenceState.observe

        def slowly(sequence: SequenceState, part: LaneStep, watched: int) -> None:
            self.runtime.now += watched * self.cost(sequence)
            observe(sequence, part, watched)

        monkeypatch.setattr(SequenceState, "observe", slowly)
        self.session = Session(
            Connection(self.runtime, "test"), DaemonConfig(log_dir=folder, record=False), lambda _silence: True,
            HeuristicScorer(), lambda: self.runtime.now,
        )  # fmt: skip
        self.longest = 0
        self.turn()
        assert self.session.sidecar is not None
        self.sidecar = self.session.sidecar
        self.sidecar.state.synced = True

    def turn(self) -> None:
        self.session.turn(0.0 if not self.runtime.quiet else PERIOD)

    def run(self) -> None:
        """Until all is said, and learned."""
        while not self.runtime.quiet or self.session._news is not None or len(self.sidecar._backlog):
            self.session.turn(PERIOD)
            self.longest = max(self.longest, len(self.sidecar._backlog))

    def costs(self, share: float, of: float = PERIOD) -> None:
        """To learn a whole step takes this share of it."""
        self.cost = lambda _sequence: share * of / (SEQUENCES * LANES)


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    warm_up(HeuristicScorer())
    made = Stage(tmp_path, monkeypatch)
    yield made
    made.session.finish("over")


def test_under_eightfold_overload_a_plan_follows_each_step_at_once(stage: Stage) -> None:
    stage.costs(8.0)
    # Until it knows what learning costs here it may be late.
    stage.runtime.decode(40)
    stage.run()
    counters, runtime = stage.sidecar.status.counters, stage.runtime
    sent, shed, stage.longest = counters.plans_sent, counters.lanes_shed, 0
    runtime.decode(200)
    stage.run()
    assert counters.plans_sent == sent + 200
    for (at, plan), (epoch, published) in zip(
        runtime.plans[-200:], list(runtime.published.items())[-200:], strict=True
    ):
        # One sequence that is under way is not left half learned.
        assert at - published <= PERIOD
        assert plan.deadline >= epoch
    assert stage.longest <= 4
    share = 1 - (counters.lanes_shed - shed) / (200 * SEQUENCES * LANES)
    assert 1 / 14 < share < 1 / 7


def test_those_that_are_learned_are_learned_whole_and_lag_little(stage: Stage) -> None:
    stage.costs(3.0)
    stage.runtime.decode(200)
    stage.run()
    sequences = stage.sidecar.state.sequences.values()
    blind = sorted(int(np.count_nonzero(s.blind > s.features.steps)) for s in sequences)
    assert blind == [0, 0, LANES - 1, *[LANES] * 5]


def test_it_recovers(stage: Stage) -> None:
    stage.costs(8.0)
    stage.runtime.decode(60)
    stage.run()
    assert stage.sidecar.status.gauges.observed_share < 0.2
    stage.costs(0.3)
    stage.runtime.decode(40 + SETTLE)
    stage.run()
    assert stage.sidecar.status.gauges.observed_share == 1.0
    # And a model may judge them all, and its guard follow them.
    assert all(s.has_features for s in stage.sidecar.state.sequences.values())
    counters = stage.sidecar.status.counters
    assert counters.steps_received == 100 + SETTLE
    assert counters.gaps == 0


def test_what_passes_by_itself_sheds_nothing(stage: Stage) -> None:
    """Many sequences are opened at once, and steps come meanwhile."""
    stage.costs(0.5)
    stage.runtime.decode(60)
    stage.runtime.now += 8.5 * PERIOD
    stage.run()
    assert stage.sidecar.status.counters.steps_skipped >= 7
    assert stage.sidecar.status.counters.lanes_shed == 0
    assert stage.sidecar.status.gauges.observed_share == 1.0
    assert stage.sidecar.state.learned == 60


def test_one_long_step_while_a_backlog_drains_sheds_nothing(stage: Stage) -> None:
    """Somebody else had the core, once; the steps after it are as quick as those before."""
    stage.costs(0.6)
    stage.runtime.decode(30)
    stage.run()
    usual = stage.cost
    stage.cost = lambda s: 2.0 * PERIOD / LANES if (s.id, s.features.steps) == (3, 40) else usual(s)
    stage.runtime.decode(60)
    stage.runtime.now += 12.5 * PERIOD
    stage.run()
    assert stage.longest >= 6
    assert stage.sidecar.status.counters.lanes_shed == 0
    assert stage.sidecar.state.learned == 90


def test_what_piled_up_while_a_snapshot_was_taken_over_came_at_its_own_pace(stage: Stage) -> None:
    stage.costs(0.5)
    for _ in range(3):
        stage.sidecar._backlog.load.learned(8 * LANES * SEQUENCES, 1.0, 0.5 * PERIOD)
    take = stage.sidecar.state.snapshot

    def slowly(message: Snapshot) -> None:
        stage.runtime.now += 18.8 * PERIOD
        take(message)

    stage.sidecar.state.snapshot = slowly  # type: ignore[method-assign]
    stage.runtime.snapshot(list(range(SEQUENCES)))
    stage.runtime.decode(60)
    stage.run()
    assert stage.sidecar.status.counters.steps_skipped >= 15
    assert stage.sidecar.status.counters.lanes_shed == 0


def test_a_cut_too_deep_is_made_good_while_the_backlog_lasts(stage: Stage) -> None:
    stage.costs(0.2)
    stage.runtime.decode(40)
    stage.runtime.now += 30 * PERIOD
    stage.sidecar._backlog.load.cut(1 / 16)
    shares = []
    learned = stage.sidecar._backlog.load.learned

    def noting(candidates: int, share: float, seconds: float) -> None:
        shares.append((len(stage.sidecar._backlog), share))
        learned(candidates, share, seconds)

    stage.sidecar._backlog.load.learned = noting  # type: ignore[method-assign]
    stage.run()
    assert shares[0][1] <= 2 / 16
    assert max(share for waiting, share in shares if waiting > PATIENCE) > 0.5


def test_a_step_that_takes_far_too_long_is_cut_short(stage: Stage) -> None:
    stage.costs(0.5)
    stage.runtime.decode(30)
    stage.run()
    stage.costs(100.0)
    stage.longest = 0
    stage.runtime.decode(30)
    stage.run()
    # One sequence takes 12 steps here, and is learned whole the first time.
    assert stage.longest <= 26
    assert stage.sidecar.status.counters.lanes_shed > 29 * (SEQUENCES - 1) * LANES


def test_a_daemon_that_was_stopped_for_long_learns_the_end_of_it(stage: Stage) -> None:
    stage.costs(0.5)
    stage.runtime.decode(30)
    stage.run()
    stage.runtime.decode(LONGEST + 40)
    stage.runtime.now += (LONGEST + 40) * PERIOD
    stage.run()
    counters = stage.sidecar.status.counters
    assert counters.steps_received == LONGEST + 70
    assert stage.sidecar.state.learned == LONGEST + 70
    # Whole steps, which the rest of the backlog makes up for: at this pace it shrinks by itself.
    assert counters.lanes_shed in (39 * SEQUENCES * LANES, 40 * SEQUENCES * LANES)


def test_who_has_ended_meanwhile_is_not_remembered_anew(stage: Stage) -> None:
    """A step and the end of one of its sequences come in one turn, as they mostly do."""
    advisor, rule, last = stage.sidecar._advisor, stage.sidecar._rule, SEQUENCES - 1
    rule.install(LearnedScorer(any_model()), sequences=SEQUENCES)
    for turn in range(5):
        stage.runtime.decode(20, who=[*range(last), last + turn])
        stage.runtime.say(SequenceClose(sequence=last + turn, tokens=1, reason="x"), stage.runtime.now + 20 * PERIOD)
        stage.run()
        stage.runtime.open(last + turn + 1)
    stage.runtime.decode(1)
    stage.run()
    gone = set(range(last, last + 5))
    assert not gone & advisor._ghost._since.keys()
    assert not gone & advisor._ghost._enrolled
    assert len(rule._guarded) == GUARDED
    assert not gone & rule._guarded
    # The end of these was not heard of.
    stage.runtime.snapshot([0, 1])
    stage.run()
    assert advisor._ghost._since.keys() == advisor._ghost._enrolled == {0, 1}
    assert rule._guarded == {0, 1}


def any_model() -> ReuseModel:
    rows = np.random.default_rng(0).normal(size=(400, len(FEATURES))).astype(np.float32)
    params = recipe.lightgbm_params() | {"objective": "regression", "min_data_in_leaf": 5}
    return ReuseModel(ModelCard(), lgb.train(params, lgb.Dataset(rows, rows[:, 0].copy()), 2).model_to_string())
