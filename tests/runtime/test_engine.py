"""An engine that joins through `Engine`: a daemon's picture follows it, and only current entries of plans reach it."""

from __future__ import annotations

import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from hotset.daemon.state import SessionState
from hotset.protos import forest
from hotset.protos.messages import (
    AccessFlag,
    Ack,
    Advice,
    Attach,
    Geometry,
    Hello,
    Lookahead,
    Message,
    Model,
    Plan,
    SequenceClose,
    SequenceOpen,
    Snapshot,
    SnapshotRequest,
    Step,
    StepStats,
)
from hotset.protos.transport import MemoryServer
from hotset.protos.wire import decode, encode
from hotset.runtime.engine import CheckedModel, Engine
from hotset.runtime.link import ControlLink

SHAPE = Geometry(layers=2, kv_heads=2, page_size=4, selected=2, candidates=4, page_bytes=64, slots=40, groups=30)
LANES = SHAPE.lanes
WAIT = 30.0


class Watcher:
    """A peer that keeps the daemon's own picture of the engine."""

    def __init__(self, server: MemoryServer, role: str = "controller") -> None:
        self.client = server.connect()
        self.state = SessionState(SHAPE)
        self.steps: list[Step] = []
        self.acks: list[Ack] = []
        self._sent = 0
        self.say(Attach.model_validate({"peer": "watcher", "pid": 1, "role": role}))
        self.hear(lambda message: isinstance(message, Hello))

    def say(self, message: Message) -> None:
        self._sent += 1
        assert self.client.send(encode(message, self._sent))

    def hear(self, last: Callable[[Message], bool]) -> Any:
        """Take in messages up to the one that `last` is true for."""
        end = time.monotonic() + WAIT
        while time.monotonic() < end:
            frames = self.client.receive(0.1)
            if frames is None:
                continue
            message = decode(frames)[1]
            self._learn(message)
            if last(message):
                return message
        raise AssertionError("the message never came")

    def _learn(self, message: Message) -> None:
        if isinstance(message, SequenceOpen):
            self.state.open(message)
        elif isinstance(message, SequenceClose):
            self.state.close(message)
        elif isinstance(message, Snapshot):
            self.state.snapshot(message)
        elif isinstance(message, Step):
            self.steps.append(message)
            self.state.step(message)
        elif isinstance(message, Ack):
            self.acks.append(message)

    def hear_ack(self, of: str) -> Ack:
        ack: Ack = self.hear(lambda message: isinstance(message, Ack) and message.of == of)
        return ack

    def plan(self, epoch: int, pages: Any = (), prefetch: Any = (), generation: int = 0, **more: Any) -> Plan:
        return Plan(
            **{"number": self._sent, "epoch": epoch, "deadline": epoch + 2, "source": "heuristic"} | more,
            pages=np.array(pages, "<i4"), generations=np.full(len(pages), generation, "<u4"),
            values=np.arange(len(pages), dtype="<f4"),
            prefetch=np.array(prefetch, "<i4"), prefetch_generations=np.full(len(prefetch), generation, "<u4"),
        )  # fmt: skip


class Bench:
    def __init__(self, **options: bool) -> None:
        self.server = MemoryServer()
        self.link = ControlLink(model="m", geometry=SHAPE, builtin_policy="lru", transport=self.server)
        self.engine = Engine(self.link, **options)

    def watcher(self) -> Watcher:
        made = Watcher(self.server)
        wait(lambda: self.engine.attached)
        return made

    def deliver(self, watcher: Watcher, message: Message) -> None:
        """Send, and return once the link has it."""
        received = self.link.counters.plans_received
        watcher.say(message)
        if isinstance(message, Plan):
            wait(lambda: self.link.counters.plans_received > received)
        else:
            watcher.say(Attach(peer="watcher", pid=1))
            watcher.hear(lambda m: isinstance(m, Hello))

    def step(self, sequences: dict[int, int], pages: list[int], stats: StepStats | None = None) -> None:
        """Every lane of every sequence (number: length) selects the logical `pages` (at most 4)."""
        engine, rows = self.engine, len(sequences) * LANES
        engine.begin_step()
        candidates = np.full((rows, 4), -1, "<i4")
        candidates[:, : len(pages)] = pages
        asked = engine.physical(list(sequences), candidates, candidates >= 0)
        engine.gained(asked[~engine.resident[asked]], by="demand")
        scores = np.full(candidates.shape, 9, "|u1")
        accesses = engine.accesses(list(sequences), candidates, scores, candidates >= 0)
        engine.end_step(list(sequences), list(sequences.values()), accesses, stats or StepStats())
        engine.tables.check_integrity()


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench()
    yield made
    made.engine.close()


def wait(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + WAIT
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.002)


def is_step(epoch: int) -> Callable[[Message], bool]:
    return lambda message: isinstance(message, Step) and message.epoch == epoch


def test_flags_and_counts_of_a_step_come_from_what_was_gained_and_lost(bench: Bench) -> None:
    watcher, engine = bench.watcher(), bench.engine
    engine.open_sequence(1, prompt_tokens=12, groups=[3, 4, 5])
    engine.gained([3 * LANES], by="prompt")
    engine.gained([4 * LANES + 1], by="prefetch")
    bench.step({1: 13}, [0, 1], StepStats(step_us=10, stall_us=2, waiting=3))
    step: Step = watcher.hear(is_step(0))
    hit = AccessFlag.SELECTED | AccessFlag.HIT
    expected = np.full((LANES, 4), [AccessFlag.SELECTED, AccessFlag.SELECTED, 0, 0])
    expected[0, 0], expected[1, 1] = hit, hit | AccessFlag.PREFETCHED
    np.testing.assert_array_equal(step.flags, expected)
    stats = step.stats
    assert (stats.demand_pages, stats.prefetch_pages, stats.moved_bytes) == (6, 1, 7 * 64)
    assert (stats.step_us, stats.stall_us, stats.waiting, stats.free) == (10, 2, 3, 40 - 8)
    bench.step({1: 14}, [0, 1])
    step = watcher.hear(is_step(1))
    np.testing.assert_array_equal(step.flags[:, :2], hit)
    assert (step.stats.demand_pages, step.stats.moved_bytes, step.sequence_steps.tolist()) == (0, 0, [1])


@pytest.mark.parametrize("seed", range(5))
def test_a_daemon_that_joins_at_any_time_sees_what_is_there(bench: Bench, seed: int) -> None:
    """Random opens with shared groups, growth, misses, evictions and closes; the picture matches after every step."""
    engine, random = bench.engine, np.random.default_rng(seed)
    free, tables, lengths = list(range(SHAPE.groups)), dict[int, list[int]](), dict[int, int]()
    watcher: Watcher | None = None
    for epoch in range(60):
        if free and len(tables) < 3 and random.random() < 0.4:
            shared = tables[min(tables)][:1] if tables and random.random() < 0.5 else []
            table = [*shared, free.pop()]
            tables[epoch], lengths[epoch] = table, 4 * len(table)
            engine.open_sequence(epoch, prompt_tokens=lengths[epoch], groups=table, parent=None)
        for number in list(tables):
            lengths[number] += 1
            if lengths[number] > 4 * len(tables[number]):
                if free:
                    tables[number].append(free.pop())
                    engine.add_group(number, tables[number][-1])
                if not free or random.random() < 0.1:
                    del tables[number], lengths[number]
                    free += engine.close_sequence(number, "done")
        if len(resident := np.flatnonzero(engine.resident)) > 20:
            engine.lost(random.choice(resident, 10, replace=False))
        if epoch == 20:
            watcher = bench.watcher()
            bench.deliver(watcher, SnapshotRequest())
        if tables:
            bench.step(lengths, [0])
            if watcher is not None:
                watcher.hear(is_step(engine.epoch - 1))
                np.testing.assert_array_equal(watcher.state.resident, engine.resident)
                assert {n: s.groups.tolist() for n, s in watcher.state.sequences.items()} == tables
    assert watcher is not None
    assert len(watcher.steps) > 20
    held = [group for table in tables.values() for group in table]
    np.testing.assert_array_equal(watcher.state.generations[held], engine.tables.generation[held])


def test_only_current_entries_of_a_plan_arrive(bench: Bench) -> None:
    watcher, engine = bench.watcher(), bench.engine
    engine.open_sequence(1, prompt_tokens=8, groups=[0, 1])
    engine.open_sequence(2, prompt_tokens=8, groups=[2, 3])
    bench.step({1: 8, 2: 8}, [0])
    engine.close_sequence(2, "stop")
    # 0..3 are resident and used at step 0, 4..7 are not resident, 8..11 were freed, 120 is no page.
    outside = SHAPE.groups * LANES
    bench.deliver(
        watcher, watcher.plan(0, pages=[0, 1, 4, 8, outside, -1], prefetch=[5, 5, 0, 9, outside, 20 * LANES, 4])
    )
    engine.begin_step()
    plan = engine.take_plan()
    assert plan is not None
    assert (plan.pages.tolist(), plan.values.tolist(), plan.prefetch.tolist()) == ([0, 1], [0.0, 1.0], [5, 4])
    engine.finish_plan(plan, refused={"no_room": 1, "other": 0})
    ack = watcher.hear_ack("plan")
    assert (ack.accepted, ack.applied) == (True, 3)
    assert ack.rejected == {
        "not_resident": 1, "stale_generation": 2, "out_of_range": 3, "in_flight": 1, "resident": 1,
        "not_stored": 1, "no_room": 1,
    }  # fmt: skip
    assert engine.take_plan() is None
    assert engine.entries_rejected == Counter(ack.rejected)


def test_a_page_used_since_the_plan_keeps_its_value(bench: Bench) -> None:
    watcher = bench.watcher()
    bench.engine.open_sequence(1, prompt_tokens=8, groups=[0, 1])
    bench.step({1: 8}, [0, 1])
    bench.step({1: 8}, [1])
    bench.deliver(watcher, watcher.plan(0, pages=[0, LANES]))
    plan = bench.engine.take_plan()
    assert plan is not None
    assert (plan.pages.tolist(), plan.rejected) == ([0], {"superseded": 1})


@pytest.mark.parametrize(("epoch", "reason"), [(0, "late"), (9, "unknown_epoch")])
def test_plans_for_other_steps_are_refused_whole(bench: Bench, epoch: int, reason: str) -> None:
    watcher = bench.watcher()
    bench.engine.open_sequence(1, prompt_tokens=8, groups=[0, 1])
    for _ in range(4):
        bench.step({1: 8}, [0])
    bench.deliver(watcher, watcher.plan(epoch, pages=[0, 1], prefetch=[4]))
    assert bench.engine.take_plan() is None
    ack = watcher.hear_ack("plan")
    assert (ack.accepted, ack.reason, ack.rejected) == (False, reason, {reason: 3})


def make_forest() -> bytes:
    one = np.zeros(1, "<i4")
    return forest.FlatForest(
        3, "", forest.IDENTITY, 1.0, one, one, np.zeros(1, "<f4"), np.zeros(1, "|u1"),
        np.array([-1], "<i4"), np.array([-2], "<i4"), np.array([1.0, 2.0]),
    ).to_bytes()  # fmt: skip


def test_models_are_checked_and_the_newest_good_one_is_taken() -> None:
    bench = Bench(takes_models=True, takes_advice=True)
    watcher, data = bench.watcher(), make_forest()
    good = {"sha256": forest.sha256(data), "forest": np.frombuffer(data, "|u1")}
    cut = {"sha256": forest.sha256(data[:-1]), "forest": np.frombuffer(data[:-1], "|u1")}
    for number, content in enumerate((good, good, good | {"sha256": "0" * 64}, cut)):
        bench.deliver(watcher, Model(number=number, version=f"v{number}", **content))
    bench.deliver(watcher, Advice(number=7, concurrency=3))
    bench.engine.begin_step()
    model, advice = bench.engine.take_model(), bench.engine.take_advice()
    assert model is not None
    assert isinstance(model.forest, forest.FlatForest)
    assert (model.number, model.version, model.forest.leaf.tolist()) == (1, "v1", [1.0, 2.0])
    assert advice is not None
    bench.engine.answer(model, accepted=True)
    bench.engine.answer(advice, accepted=True)
    watcher.hear_ack("advice")
    reasons = {ack.number: ack.reason for ack in watcher.acks if ack.of == "model"}
    assert reasons[0] == "superseded by 1"
    assert reasons[1] == ""
    assert "hash" in reasons[2]
    assert "the header announces" in reasons[3]
    nothing = np.zeros(0, "|u1")
    bench.deliver(watcher, Model(number=4, version="", sha256=forest.sha256(b""), forest=nothing, rollback=True))
    bench.engine.begin_step()
    assert bench.engine.take_model() == CheckedModel(4, "", None)
    bench.engine.close()


def test_what_the_engine_does_not_take_is_answered_for_it(bench: Bench) -> None:
    watcher, data = bench.watcher(), make_forest()
    model = Model(number=1, version="v", sha256=forest.sha256(data), forest=np.frombuffer(data, "|u1"))
    bench.deliver(watcher, model)
    bench.deliver(watcher, Advice(number=2))
    no_opinion = {"distance": np.full(2, -1, "|i1"), "least": np.full(2, np.nan, "<f4"), "pages": np.full(2, -1, "<i4")}
    bench.deliver(watcher, Lookahead(number=3, **no_opinion))
    bench.engine.begin_step()
    assert not watcher.hear_ack("model").accepted
    assert not watcher.hear_ack("lookahead").accepted
    assert not watcher.hear_ack("advice").accepted
    assert bench.engine.take_model() is None
    assert bench.engine.take_advice() is None


def test_without_peers_nothing_piles_up(bench: Bench) -> None:
    bench.engine.open_sequence(1, prompt_tokens=8, groups=[0, 1])
    for length in range(8, 100):
        bench.engine.begin_step()
        bench.engine.gained([length % 8], by="demand")
        bench.engine.end_step([1], [8], None)
    assert bench.engine.tables._touched == []
    assert bench.engine.epoch == 92


def test_mistakes_of_the_author_are_told_at_once(bench: Bench) -> None:
    engine = bench.engine
    engine.open_sequence(1, prompt_tokens=4, groups=[0])
    mistakes: list[Callable[[], object]] = [
        lambda: engine.open_sequence(1, prompt_tokens=4, groups=[1]),
        lambda: engine.open_sequence(2, prompt_tokens=4, groups=[SHAPE.groups]),
        lambda: engine.add_group(9, 1),
        lambda: engine.gained([SHAPE.groups * LANES], by="demand"),
        lambda: engine.lost([-1]),
        lambda: engine.end_step([9], [4], None),
        lambda: engine.physical([1], np.ones((LANES, 1), np.int32), np.ones((LANES, 1), np.bool_)),
        lambda: engine.physical([1], np.zeros((1, 1), np.int32), np.ones((1, 1), np.bool_)),
    ]
    for mistake in mistakes:
        with pytest.raises(ValueError, match=r"open|outside|beyond|selected of"):
            mistake()
    engine.tables.check_integrity()


def test_the_engine_needs_no_torch() -> None:
    code = "import sys, hotset.runtime.engine; sys.exit(bool({'torch', 'lightgbm', 'numba'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_ranks_of_an_engines_own_estimate_travel_with_its_step(bench: Bench) -> None:
    watcher = bench.watcher()
    bench.engine.open_sequence(1, prompt_tokens=8, groups=[0, 1])
    bench.engine.begin_step()
    candidates = np.tile(np.array([[0, 1, -1]], "<i4"), (LANES, 1))
    scores = np.tile(np.array([[0.25, 0.5, 9.0]], "<f4"), (LANES, 1))
    ranks = bench.engine.ranked(candidates, scores)
    assert ranks[0].tolist() == [1, 0, -1]
    accesses = bench.engine.accesses([1], candidates, np.zeros(candidates.shape, "|u1"), candidates >= 0)
    bench.engine.end_step([1], [8], accesses._replace(lookahead={2: ranks}))
    step = watcher.hear(lambda m: isinstance(m, Step))
    assert isinstance(step, Step)
    np.testing.assert_array_equal(step.lookahead[2], ranks)
    assert list(step.lookahead) == [2]
