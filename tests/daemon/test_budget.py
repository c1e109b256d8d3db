"""The movement budget: what the link can carry beside demand, never more than half of the reserve."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hotset.daemon.budget import LEAST_ROWS, STEP_SHARE, TOLD_SHARE, MovementBudget, ScoringBudget
from hotset.protos.messages import StepStats


def test_half_of_the_reserve_until_the_link_is_known() -> None:
    budget = MovementBudget(page_bytes=1000)
    assert budget.pages(StepStats(reserve=10)) == 5
    budget.observe(StepStats(step_us=100, reserve=10))
    assert budget.pages(StepStats(reserve=10)) == 5


def test_a_step_that_captures_tells_nothing() -> None:
    budget, stats = MovementBudget(page_bytes=1000, gbps=0.1), StepStats(step_us=200, reserve=1000)
    budget.observe(stats)
    known = budget.pages(stats)
    budget.observe(StepStats(step_us=1_000_000, stall_us=900_000, demand_pages=1, reserve=1000, warming=True))
    assert budget.pages(stats) == known


def test_a_given_rate_times_the_step_less_demand() -> None:
    budget = MovementBudget(page_bytes=1000, gbps=0.1)  # 100 bytes a microsecond
    stats = StepStats(step_us=200, demand_pages=8, reserve=1000)
    budget.observe(stats)
    assert budget.pages(stats) == 12
    assert budget.pages(StepStats(reserve=1000, demand_pages=30)) == 0
    assert budget.pages(StepStats(reserve=6)) == 3


def test_the_rate_is_measured_from_what_demand_waited_for() -> None:
    budget = MovementBudget(page_bytes=1000)
    for _ in range(100):
        budget.observe(StepStats(step_us=100, stall_us=50, demand_pages=5))
    assert budget.bytes_per_us == 100
    for _ in range(200):
        budget.observe(StepStats(step_us=100, stall_us=100, demand_pages=5))
    assert budget.bytes_per_us is not None
    assert abs(budget.bytes_per_us - 50) < 1


def test_a_prefetch_must_save_what_it_costs() -> None:
    budget = MovementBudget(page_bytes=4096)
    assert budget.least(20.0) == 1  # nobody knows the link
    budget.gbps = 55.0
    assert budget.least(20.0) == 269  # 1.1 MB
    assert budget.least(0.0) == 1
    budget.gbps = 0.2
    assert budget.least(20.0) == 1


def test_scoring_takes_a_share_of_the_step() -> None:
    budget = ScoringBudget(most=20_000)
    step = StepStats(step_us=100_000)
    assert budget.rows(step) == LEAST_ROWS
    budget.observe(1000, 0.003)
    assert budget.rows(step) == pytest.approx(STEP_SHARE * 0.1 / 3e-6, abs=1)
    assert budget.rows(StepStats(step_us=10_000_000)) == 20_000
    assert budget.rows(StepStats(step_us=10)) == LEAST_ROWS
    budget.reset()
    assert budget.rows(step) == LEAST_ROWS
    assert ScoringBudget(most=100).rows(step) == 100


def test_a_runtime_that_takes_long_over_plans_gets_shorter_ones() -> None:
    budget, applied = ScoringBudget(most=20_000), 0
    budget.observe(1000, 0.001)
    step = StepStats(step_us=100_000)
    assert budget.rows(step) == 20_000
    for _ in range(50):
        applied += 8000
        rejected = {"superseded": applied // 4}
        budget.told(StepStats(step_us=100_000, plan_us=1000, entries_applied=applied, entries_rejected=rejected))
    assert budget.rows(step) == pytest.approx(TOLD_SHARE * 100_000 / (1000 / 10_000), abs=1)
    # One that takes them over beside its step, and steps without a plan, tell nothing against it.
    budget.told(StepStats(step_us=100_000, plan_us=0, entries_applied=applied, entries_rejected=rejected))
    assert budget.rows(step) < 3000
    beside = ScoringBudget(most=20_000)
    beside.observe(1000, 0.001)
    for applied in (5000, 9000):
        beside.told(StepStats(step_us=100_000, plan_us=0, entries_applied=applied))
    assert beside.rows(step) == 20_000


def test_a_plan_waits_for_its_step_where_that_takes_little() -> None:
    budget, slow = ScoringBudget(most=20_000), StepStats(step_us=100_000)
    budget.observe(1000, 0.002)
    assert budget.fits(20_000, 0.007, slow)
    assert not budget.fits(24_000, 0.007, slow)
    # Many lanes: whoever waits until they are all learned plans late, however much time a step takes.
    assert not budget.fits(0, 0.026, slow)
    assert budget.fits(900, 0.0001, StepStats(step_us=100))
    assert not budget.fits(1000, 0.0001, StepStats(step_us=100))


COUNT = st.integers(0, 10**9)


@given(st.lists(st.tuples(COUNT, COUNT, COUNT, COUNT), min_size=1, max_size=9))
def test_never_negative_and_never_more_than_half_of_the_reserve(steps: list[tuple[int, int, int, int]]) -> None:
    budget = MovementBudget(page_bytes=4096)
    for step_us, stall_us, demand, reserve in steps:
        stats = StepStats(step_us=step_us, stall_us=stall_us, demand_pages=demand, reserve=reserve)
        budget.observe(stats)
        assert 0 <= budget.pages(stats) <= reserve // 2
