"""What a simulated node conserves, obeys and repeats."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hotset.ops.simulate.engine import Engine
from hotset.ops.simulate.integrity import check_integrity
from hotset.ops.simulate.node import Node
from hotset.ops.simulate.pool import REPLAY
from hotset.ops.simulate.run import Job, Load, simulate
from hotset.ops.simulate.wire import Wire
from hotset.ops.simulate.workload import Workload, arrival_times, tile
from hotset.predictor.replay import replay
from hotset.predictor.trace import Trace
from hotset.protos.errors import ConfigError
from hotset.protos.messages import Ack, Advice, Message, Plan, Step


class Told(Wire):
    """A peer that says what a test gives it, and remembers what it hears."""

    attached = True

    def __init__(self) -> None:
        self.heard: list[Message] = []
        self.advice: list[Advice] = []
        self.plans: list[Plan] = []

    def publish(self, message: Message) -> None:
        self.heard.append(message)

    def take_advice(self) -> Advice | None:
        return self.advice.pop(0) if self.advice else None

    def take_plan(self) -> Plan | None:
        return self.plans.pop(0) if self.plans else None


def _load(sample: Trace, sequences: int = 6, **options: object) -> Workload:
    return tile(sample.meta, sample.sequences, sequences=sequences, tokens=20, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("ratio", [1.0, 2.0])
def test_replay_counts_the_same_misses(sample: Trace, ratio: float) -> None:
    load = tile(sample.meta, sample.sequences, sequences=2)
    engine = Engine(load, Node(builtin="lru", ratio=ratio), rules=REPLAY)
    found, wanted = engine.run().report(), replay([sample], "lru", ratio=ratio, pool="shared")
    assert [found[n] for n in ("demand_misses", "cold_fills", "accesses")] == [
        wanted.demand_misses, wanted.cold_fills, wanted.accesses,
    ]  # fmt: skip


@pytest.mark.parametrize("builtin", ["margin-ema", "score-ema", "lru"])
def test_integrity_and_conservation(sample: Trace, builtin: str) -> None:
    load = _load(sample, shared_prefix=0.5)
    engine = Engine(load, Node(concurrency=3, ratio=1.5, builtin=builtin), Told())
    while engine.step():
        check_integrity(engine.pool, engine.tables.tails())
        engine.tables.groups.check_integrity(
            [_Holds(p.groups) for p in engine.tables.open.values()]  # type: ignore[misc]
        )
    tally = engine.tally
    assert tally.total("running") == sum(s.tokens for s in tally.served) == 6 * 20
    # Nothing is shared within a lane's step but the prefix, so a miss of two lanes is loaded once.
    assert tally.total("demand_pages") <= tally.accesses - tally.hits
    assert engine.now_us == pytest.approx(sum(s.step_us for s in tally.steps) + _warming(engine), rel=1e-9)
    assert all(s.stall_us < s.step_us for s in tally.steps)
    assert not engine.tables.open
    assert len(engine.pool.resident_pages()) == 0


class _Holds:
    """What GroupTable.check_integrity asks of a sequence."""

    def __init__(self, groups: list[int]) -> None:
        self.held = groups


def _warming(engine: Engine) -> float:
    """Time between steps: only warming takes any when all come at once."""
    starts = [s.start_us for s in engine.tally.steps]
    ends = [0.0, *(s.start_us + s.step_us for s in engine.tally.steps)]
    return sum(start - end for start, end in zip(starts, ends, strict=False))


def test_moved_bytes_are_what_the_steps_say(sample: Trace) -> None:
    wire = Told()
    engine = Engine(_load(sample), Node(concurrency=3, ratio=1.2), wire)
    report = engine.run().report()
    steps = [m for m in wire.heard if isinstance(m, Step)]
    assert sum(s.stats.moved_bytes for s in steps) == report["moved_bytes"] > 0
    assert sum(s.stats.demand_pages for s in steps) == report["demand_misses"]
    assert report["moved_bytes"] == sample.meta.page_bytes * (report["demand_misses"] + report["prefetched_pages"])


def test_stall_is_the_link_model(sample: Trace) -> None:
    slow = Engine(_load(sample), Node(concurrency=2, ratio=1.5, link_gbps=1, link_latency_us=7)).run()
    fast = Engine(_load(sample), Node(concurrency=2, ratio=1.5, link_gbps=2, link_latency_us=7)).run()
    assert slow.total("demand_pages") == fast.total("demand_pages")
    page_us = sample.meta.page_bytes / 1e3
    difference = slow.total("stall_us") - fast.total("stall_us")
    assert difference == pytest.approx(slow.total("demand_pages") * page_us / 2)
    assert all(s.step_us == pytest.approx(s.stall_us + 1200 + 40 * s.running) for s in slow.steps)


def test_advice_is_obeyed(sample: Trace) -> None:
    wire = Told()
    engine = Engine(_load(sample, 8), Node(concurrency=6, ratio=2), wire)
    engine.step()
    assert engine.tally.steps[-1].running == 6
    wire.advice.append(Advice(number=1, concurrency=2, admit_every=3, hot_slots=5000))
    for _ in range(3):
        engine.step()
    assert engine.tally.steps[-1].running == 2
    assert engine.tally.steps[-1].paused == 4
    assert engine.tally.steps[-1].hot_slots == 5000
    assert any(isinstance(m, Ack) and m.of == "advice" and m.accepted for m in wire.heard)
    wire.advice.append(Advice(number=2))
    engine.step()
    engine.step()
    assert engine.tally.steps[-1].running == 6
    assert engine.tally.steps[-1].hot_slots == engine.pool.geometry.slots
    check_integrity(engine.pool, engine.tables.tails())


def test_admissions_are_paced(sample: Trace) -> None:
    wire = Told()
    wire.advice.append(Advice(number=1, concurrency=6, admit_every=4))
    engine = Engine(_load(sample, 6), Node(concurrency=6, ratio=2), wire)
    engine.wire.safe_point(0)
    engine._obey()
    for _ in range(12):
        engine.step()
    assert [s.running for s in engine.tally.steps] == [1] * 4 + [2] * 4 + [3] * 4


def test_plans_rank_pages_and_stale_ones_are_refused(sample: Trace) -> None:
    wire = Told()
    engine = Engine(_load(sample, 2), Node(ratio=2), wire)
    engine.step()
    engine.step()
    resident = engine.pool.resident_pages()
    generations = engine.pool.s.generation[resident // engine.pool.lanes].astype("<u4")
    outside = np.flatnonzero(engine.pool.s.slot_of[: 90 * engine.pool.lanes] < 0)[:5].astype("<i4")
    plan = Plan(
        number=1, epoch=1, deadline=4, source="heuristic", pages=resident, generations=generations,
        values=np.ones(len(resident), "<f4"), prefetch=outside, prefetch_generations=np.zeros(5, "<u4"),
    )  # fmt: skip
    wire.plans.append(plan)
    engine.step()
    acks = [m for m in wire.heard if isinstance(m, Ack)]
    assert acks[-1].accepted
    assert acks[-1].applied > 0.9 * len(resident)
    assert engine.tally.total("prefetch_pages") == 5
    assert (engine.pool.s.slot_of[outside] >= 0).any()
    wire.plans.append(plan.model_copy(update={"deadline": 1}))
    engine.step()
    acks = [m for m in wire.heard if isinstance(m, Ack)]
    assert not acks[-1].accepted
    assert acks[-1].reason == "late"


def test_the_real_daemon_plans_and_the_same_seed_repeats(sample_path: Path) -> None:
    job = Job(
        (sample_path,), policy="heuristic", load=Load(sequences=5, tokens=15, arrivals="poisson:300", seed=3),
        node=Node(concurrency=3, ratio=1.5, plan_delay_us=400),
    )  # fmt: skip
    first, second = simulate(job)[1], simulate(job)[1]
    assert first.pop("wall_seconds") > 0
    second.pop("wall_seconds")
    assert first == second
    assert first["plans_applied"] > 10
    assert first["entries_applied"] > 1000


def test_a_slow_daemon_skips_steps_and_its_plans_age(sample_path: Path) -> None:
    def run(delay: float) -> dict[str, float]:
        node = Node(ratio=1.5, plan_delay_us=delay)
        return simulate(Job((sample_path,), policy="heuristic", load=Load(sequences=2, tokens=30), node=node))[1]

    prompt, slow = run(200), run(4000)
    assert slow["plans_applied"] < prompt["plans_applied"] / 2
    assert slow["plan_age_steps"] > prompt["plan_age_steps"]
    assert run(1e9)["plans_applied"] == 0


def test_a_daemon_whose_scoring_takes_long_plans_ahead(sample_path: Path) -> None:
    """Its plans come with every step, as soon as before, but name an older one and hold what there was time for."""

    def run(score_ns: float) -> dict[str, float]:
        node = Node(ratio=1.5, plan_delay_us=50, score_ns=score_ns)
        found = simulate(Job((sample_path,), policy="heuristic", load=Load(sequences=2, tokens=40), node=node))[1]
        return {name: value for name, value in found.items() if name != "wall_seconds"}

    fresh, ahead, slower = run(0), run(1000), run(4000)
    assert fresh["plan_age_steps"] == 1
    assert 1.8 < ahead["plan_age_steps"] < 3
    assert ahead["plans_applied"] >= fresh["plans_applied"] - 3
    assert 0 < slower["entries_applied"] < ahead["entries_applied"] / 2 < fresh["entries_applied"] / 4
    assert run(1000) == ahead


def test_a_shared_prefix_is_held_once(sample: Trace) -> None:
    alone = Engine(_load(sample, 6), Node(ratio=1.5))
    shared = Engine(_load(sample, 6, shared_prefix=1.0), Node(ratio=1.5))
    for _ in range(5):
        alone.step()
        shared.step()
    groups = [g for p in shared.tables.open.values() for g in p.groups]
    assert len(set(groups)) < 0.5 * len(groups)
    own = [g for p in alone.tables.open.values() for g in p.groups]
    assert len(set(own)) == len(own)


def test_memory_that_sequences_take_is_not_the_hot_sets(sample: Trace) -> None:
    node = Node(hbm_gib=0.06, sequence_mib=6)
    engine = Engine(_load(sample, 8), node)
    limits = set()
    while engine.step():
        opened = len(engine.tables.open)
        limits.add(engine.pool.limit)
        taken = engine.pool.limit * sample.meta.page_bytes + opened * 6 * (1 << 20)
        assert taken <= 0.06 * (1 << 30)
    assert len(limits) > 1
    with pytest.raises(ConfigError, match="are the least"):
        Engine(_load(sample, 8), Node(hbm_gib=0.001))


def test_slots_bound_how_many_run(sample: Trace) -> None:
    node = Node(slots=4 * (12 + 128), concurrency=4)
    assert Engine(_load(sample, 4), node).memory.max_sequences == 4
    assert Engine(_load(sample, 4), node).run().report()["tokens"] == 80
    # With less, fewer run at once.
    assert Engine(_load(sample, 4), node.model_copy(update={"slots": 500})).memory.max_sequences == 3


def test_copies_differ_and_repeat(sample: Trace) -> None:
    load, again = _load(sample, 12, seed=5), _load(sample, 12, seed=5)
    assert [(r.first, r.turn) for r in load.requests] == [(r.first, r.turn) for r in again.requests]
    assert len({(r.source, r.first, r.turn) for r in load.requests}) > 8
    assert [(r.first, r.turn) for r in load.requests[:2]] == [(0, 0), (0, 0)]


def test_arrivals() -> None:
    rng = np.random.default_rng(0)
    assert arrival_times("bursts:2:0.5", 5, rng) == [0, 0, 5e5, 5e5, 1e6]
    poisson = arrival_times("poisson:100", 400, rng)
    assert poisson == sorted(poisson)
    assert poisson[-1] == pytest.approx(4e6, rel=0.2)
    for wrong in ("poisson", "poisson:0", "bursts:2", "sometimes", "at-once:3", "poisson:x"):
        with pytest.raises(ConfigError, match="unknown arrivals"):
            arrival_times(wrong, 3, rng)


def test_requests_arrive_in_time_and_wait_for_their_place(sample: Trace) -> None:
    load = _load(sample, 6, arrivals="bursts:3:1")
    tally = Engine(load, Node(concurrency=2, ratio=2)).run()
    assert all(s.admitted_us >= s.arrival_us for s in tally.served)
    late = [s for s in tally.served if s.arrival_us > 0]
    assert len(late) == 3
    assert min(s.admitted_us for s in late) == pytest.approx(1e6)


def test_the_real_controller_is_obeyed(sample_path: Path) -> None:
    load, node = Load(sequences=60, tokens=40), Node(concurrency=24, slots=64 * 14 * 12, link_gbps=4)
    alone = simulate(Job((sample_path,), load=load, node=node))[1]
    tally, report = simulate(Job((sample_path,), controller=True, load=load, node=node))
    assert report["advice_followed"] == len(tally.advice) >= 2
    assert report["plans_applied"] <= 1
    first, second = tally.advice[:2]
    between = [s for s in tally.steps[first.epoch + 1 : second.epoch] if s.waiting or s.paused]
    assert {s.running for s in between} == {first.concurrency}
    # Movement dominates at 24, and whoever sees it does better.
    assert report["tokens_per_second"] > 1.2 * alone["tokens_per_second"]
