"""The movement budget: its allowance is LRU's, and its threshold follows what was spent."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest

from hotset.predictor.dataset import new_state
from hotset.predictor.policies.budget import _MARGIN, MovementBudget
from hotset.predictor.replay import replay
from hotset.predictor.trace import Trace


def spend(trace: Trace, budget: MovementBudget, pages: int) -> list[float]:
    """Move so many pages at every step; the threshold after each."""
    sequence, seen = trace.sequences[0], []
    state = new_state(sequence, trace.meta)
    for t in range(len(sequence.steps)):
        state.observe(int(sequence.lengths[t]), sequence.pages[t], sequence.scores[t], sequence.selected[t])
        budget.settle(state, sequence.pages[t], sequence.selected[t], pages)
        seen.append(budget.threshold)
    return seen


def make_budget(trace: Trace, multiple: float = 1.2) -> MovementBudget:
    meta = trace.meta
    return MovementBudget(multiple, lanes=meta.layers * meta.kv_heads, slots_per_lane=2 * meta.selected)


def test_allowance_is_a_multiple_of_lru(make_trace: Callable[..., Trace]) -> None:
    trace = make_trace(3, sequences=1, steps=40)
    budget = make_budget(trace, 1.2)
    spend(trace, budget, 10)
    lru = replay([trace], "lru", ratio=2.0).moved_pages
    assert budget.allowed == pytest.approx(1.2 * _MARGIN * lru)


def test_overdraft_raises_the_threshold_and_then_stops_all(make_trace: Callable[..., Trace]) -> None:
    trace = make_trace(3, sequences=1, steps=40)
    seen = spend(trace, make_budget(trace), 30)
    assert seen[-1] == math.inf
    finite = [threshold for threshold in seen if threshold < math.inf]
    assert finite == sorted(finite)


def test_thrift_lowers_the_threshold(make_trace: Callable[..., Trace]) -> None:
    trace = make_trace(3, sequences=1, steps=40)
    seen = spend(trace, make_budget(trace), 0)
    assert seen == sorted(seen, reverse=True)
    assert 0.0 < seen[-1] < 0.1
