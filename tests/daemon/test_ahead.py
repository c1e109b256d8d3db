"""Plans of values made ahead: late, stale and slow ones, what shedding and memory leave of them, and the reserve."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, Literal

import numpy as np
import pytest
from small_state import LANES, PAGES, churn, make_state, make_step

from hotset.daemon.ahead import Ahead
from hotset.daemon.budget import MovementBudget
from hotset.daemon.config import PlanRules
from hotset.daemon.planner import Planner
from hotset.daemon.room import Room
from hotset.daemon.scorers import HeuristicScorer
from hotset.daemon.sequence import SETTLE
from hotset.daemon.state import SequenceState, SessionState
from hotset.daemon.turns import Int32, Scored, Turns
from hotset.protos.messages import SequenceClose, StepStats

WAIT = 30.0


class Slow(HeuristicScorer):
    """Scores only when it is let, a call each time."""

    def __init__(self) -> None:
        self.go = threading.Semaphore(0)

    def values(self, sequence: SequenceState, lanes: Int32, pages: Int32) -> Any:
        assert self.go.acquire(timeout=WAIT)
        return super().values(sequence, lanes, pages)


class Numbers:
    """Values a page by its logical number."""

    source: Literal["learned"] = "learned"
    version = "numbers"
    prefetch_below = float("inf")

    def values(self, sequence: SequenceState, lanes: Int32, pages: Int32) -> Any:
        return pages.astype(np.float32)


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + WAIT
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.002)


@pytest.fixture
def state() -> SessionState:
    made = make_state()
    made.resident[::3] = True
    for epoch in range(1, 6):
        made.step(make_step(made, epoch))
    return made


@pytest.fixture
def ahead(state: SessionState) -> Iterator[Ahead]:
    made = Ahead(state, lambda _rows, _seconds: None)
    yield made
    made.close()


def scored(ahead: Ahead, lanes: int) -> list[Scored]:
    parts: list[Scored] = []

    def enough() -> bool:
        parts.extend(ahead.take())
        return sum(part.lanes for part in parts) >= lanes

    until(enough)
    return parts


def test_what_is_made_ahead_is_what_a_fresh_plan_says(state: SessionState, ahead: Ahead) -> None:
    rules = PlanRules(near=1.0)
    ahead.start(HeuristicScorer(), rules)
    plan = Planner(rules).make(state, HeuristicScorer(), scored(ahead, state.lanes), 0)
    fresh = Planner(rules).plan(state, HeuristicScorer(), 0)
    wanted = dict(zip(fresh.pages.tolist(), fresh.values.tolist(), strict=True))
    assert dict(zip(plan.pages.tolist(), plan.values.tolist(), strict=True)) == wanted
    assert (plan.epoch, plan.deadline) == (fresh.epoch, fresh.deadline) == (5, 9)


def test_a_plan_leaves_out_what_moved_since_and_names_the_older_step(state: SessionState) -> None:
    planner, parts = Planner(PlanRules()), Turns().score(state, Numbers(), PlanRules(), 1000, state.lanes)
    was = np.flatnonzero(state.resident)
    gone, came = was[:2].astype("<i4"), np.array([1, 2], "<i4")
    state.take(make_step(state, 6, evicted=gone, loaded=came))
    plan = planner.make(state, Numbers(), parts, 50)
    assert plan.epoch == 5
    assert plan.deadline == 9
    assert sorted(plan.pages.tolist()) == was[2:].tolist()
    assert not state.resident[plan.prefetch].any()
    assert not set(plan.prefetch.tolist()) & set(gone.tolist())


def test_values_older_than_the_horizon_are_not_sent(state: SessionState) -> None:
    rules = PlanRules(horizon=3)
    parts = Turns().score(state, Numbers(), rules, 1000, state.lanes)
    for epoch, holds in ((7, True), (8, False)):
        state.take(make_step(state, epoch))
        plan = Planner(rules).make(state, Numbers(), parts, 9)
        assert bool(len(plan.pages)) == holds
        assert plan.deadline >= state.epoch


def test_a_group_that_was_given_away_since_is_named_by_its_old_generation(state: SessionState) -> None:
    parts = Turns().score(state, Numbers(), PlanRules(), 1000, state.lanes)
    state.close(SequenceClose(sequence=0, tokens=1, reason="x"))
    new = np.array([0], "<i4")
    state.take(
        make_step(state, 6, new_sequence=np.array([1], "<i8"), new_group=new, new_generation=np.array([8], "<u4"))
    )
    plan = Planner(PlanRules()).make(state, Numbers(), parts, 0)
    assert set(plan.generations[plan.pages // LANES == 0].tolist()) == {7}


def test_a_slow_scorer_delays_neither_plans_nor_learning(state: SessionState, ahead: Ahead) -> None:
    slow = Slow()
    ahead.start(slow, PlanRules())
    planner = Planner(PlanRules())
    for epoch in range(6, 10):
        message = make_step(state, epoch)
        parts = state.take(message)
        assert len(planner.make(state, slow, ahead.take(), 9).pages) == 0
        state.learn(parts, epoch)
        ahead.start(slow, PlanRules())
    slow.go.release(100)
    late = scored(ahead, 1)
    assert late[0].epoch <= 9


def test_a_failing_scorer_only_stops_planning(state: SessionState, ahead: Ahead) -> None:
    class Broken(Numbers):
        def values(self, sequence: SequenceState, lanes: Int32, pages: Int32) -> Any:
            raise ValueError("broken")

    ahead.start(Broken(), PlanRules())
    until(lambda: ahead._thread is not None and not ahead._thread.is_alive())
    assert ahead.take() == []
    state.step(make_step(state, 6))


def test_between_two_plans_no_lane_is_scored_twice_nor_more_than_allowed(state: SessionState, ahead: Ahead) -> None:
    ahead.start(Numbers(), PlanRules(near=1.0))
    until(lambda: sum(part.lanes for part in ahead._parts) == state.lanes)
    ahead.start(Numbers(), PlanRules(near=1.0))
    time.sleep(0.02)
    parts = ahead.take()
    pages = np.concatenate([part.pages for part in parts])
    assert len(np.unique(pages)) == len(pages)
    few = Ahead(state, lambda _rows, _seconds: None)
    few.start(Numbers(), PlanRules(rows=10))
    until(lambda: bool(few._parts))
    few.close()
    assert sum(part.lanes for part in few._parts) < state.lanes


def test_of_many_pages_only_those_near_eviction_are_scored(state: SessionState) -> None:
    turns, rules = Turns(near=True), PlanRules(near=0.25)
    first = Scored.join(turns.score(state, HeuristicScorer(), rules, 10_000, state.lanes), 0)
    again = Scored.join(turns.score(state, HeuristicScorer(), rules, 10_000, state.lanes), 0)
    count = int(first.resident.sum())
    assert 0.25 * count <= again.resident.sum() < 0.7 * count
    left_out = np.setdiff1d(first.pages[first.resident], again.pages[again.resident])
    values = dict(zip(first.pages.tolist(), first.values.tolist(), strict=True))
    assert max(values[page] for page in left_out.tolist()) <= again.values[again.resident].min() + 4.0


@pytest.mark.parametrize("gbps", [None, 0.001, 100.0])
def test_prefetches_never_exceed_the_reserve_or_the_link(state: SessionState, gbps: float | None) -> None:
    for reserve, demand in ((0, 0), (1, 0), (8, 3), (40, 30)):
        stats = StepStats(step_us=1000, stall_us=100, demand_pages=demand, reserve=reserve)
        budget = MovementBudget(64, gbps)
        budget.observe(stats)
        plan = Planner(PlanRules(margin=-100.0)).plan(state, Numbers(), budget.pages(stats))
        assert len(plan.prefetch) <= reserve // 2
        if gbps is not None:
            assert (len(plan.prefetch) + demand) * 64 <= max(gbps * 1e3 * 1000, demand * 64)


def test_lanes_that_were_shed_are_left_to_the_runtime_until_they_have_settled(state: SessionState) -> None:
    state.resident[:] = True
    parts = state.take(make_step(state, 6))
    state.learn(parts, 6, share=1 / 3 + 0.01)
    named = Planner(PlanRules()).plan(state, HeuristicScorer(), 0).pages
    whole = [s for s in state.sequences.values() if not s.blind.any()]
    assert len(whole) == 1
    owners = named // LANES // PAGES
    assert (owners == whole[0].id).sum() == LANES * PAGES
    # One lane more had its turn, of another sequence.
    assert len(named) == LANES * PAGES + PAGES


def test_idle_sequences_are_compacted_keep_heat_and_come_back() -> None:
    state, other = make_state(room=Room(idle_steps=40)), make_state()
    for each in (state, other):
        each.resident[:] = True
        for epoch in range(1, 41):
            each.step(make_step(each, epoch))
        for epoch in range(41, 120):
            each.step(make_step(each, epoch, [0, 2]))
    assert [s.features.is_compact for s in state.sequences.values()] == [False, True, False]
    assert state.room.compactions == 1
    assert state.room.used(state.sequences) < other.room.used(other.sequences)
    plans = [Planner(PlanRules()).plan(each, HeuristicScorer(), 9) for each in (state, other)]
    np.testing.assert_array_equal(plans[0].pages, plans[1].pages)
    np.testing.assert_array_equal(plans[0].values, plans[1].values)
    np.testing.assert_array_equal(plans[0].prefetch, plans[1].prefetch)
    state.step(make_step(state, 120))
    back = state.sequences[1]
    assert not back.features.is_compact
    assert not back.has_features
    for epoch in range(121, 121 + SETTLE):
        state.step(make_step(state, epoch))
    assert back.has_features
    state.room.check_integrity(state.sequences)


def test_a_sequence_has_features_from_its_first_step_on() -> None:
    """Whoever is only known of takes 16 bytes a page of a lane: a snapshot of many must not hold up plans."""
    state = make_state()
    assert all(s.features.is_compact for s in state.sequences.values())
    before = state.room.used(state.sequences)
    state.step(make_step(state, 1, [1]))
    assert [s.has_features for s in state.sequences.values()] == [False, True, False]
    assert state.room.used(state.sequences) > 2 * before
    state.room.check_integrity(state.sequences)


def test_memory_stays_below_its_cap_at_every_step() -> None:
    one = make_state(sequences=1)
    one.step(make_step(one, 1))
    limit = int(2.6 * one.sequences[0].features.nbytes)
    state = make_state(sequences=0 + 4, room=Room(limit=limit, idle_steps=8))
    churn(state, limit, stepping=2)
    tiny = make_state(sequences=2, room=Room(limit=100))
    tiny.step(make_step(tiny, 1))
    assert tiny.room.used(tiny.sequences) <= 1000
    assert tiny.lanes_shed == 2 * LANES
