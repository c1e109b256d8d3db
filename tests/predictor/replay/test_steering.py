"""The hook of learned policies: order of questions, when values count, and what prefetch costs and saves."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import get_args

import numpy as np
import pytest

from hotset.predictor.policies import PolicyError, SteeredPolicy
from hotset.predictor.policies.base import Float32, Prefetch, SteeringContext, StepView
from hotset.predictor.replay import Pool
from hotset.predictor.replay.batch import Batch, make_batch
from hotset.predictor.replay.counts import Counts
from hotset.predictor.replay.run import count
from hotset.predictor.replay.valued import run_steered
from hotset.predictor.trace import SequenceTrace, Trace
from hotset.predictor.trace.sequence import Bool, Int32

MakeTrace = Callable[..., Trace]
POOLS: tuple[Pool, ...] = get_args(Pool)


@dataclass
class Recency:
    """LRU as a state that is asked: value = steps since the last use. Keeps a diary of the questions."""

    context: SteeringContext
    diary: list[str] = field(default_factory=list)
    now: int = 0

    def __post_init__(self) -> None:
        lanes = self.context.meta.layers * self.context.meta.kv_heads
        self.last = np.full((lanes, self.context.page_count), -1)

    def prefetch(self, length: int, lookahead: Mapping[int, Int32], resident: Bool) -> Prefetch | None:
        self.diary.append("prefetch")
        return None

    def observe(self, step: StepView) -> None:
        self.diary.append("observe")
        self.now = step.epoch
        lane, candidate = np.nonzero(step.selected)
        self.last[lane, step.pages[lane, candidate]] = step.epoch

    def values(self, lanes: Int32, pages: Int32) -> Float32:
        self.diary.append("values")
        return (self.now - self.last[lanes, pages]).astype(np.float32)


def _run(batch: Batch, policy: SteeredPolicy, slots: int, pool: Pool = "lane") -> Counts:
    return run_steered(batch, policy, slots, shared=pool == "shared", model=None)


@pytest.mark.parametrize("fresh", [False, True])
def test_recency_by_steering_is_lru(fresh: bool, make_trace: MakeTrace) -> None:
    policy = SteeredPolicy("x", "x", open=lambda c, m: Recency(c), needs_model=False, fresh=fresh)
    for seed in range(8):
        batch = make_batch([make_trace(seed)])
        expected = count(batch, "lru", ratio=4 / 3, pool="lane").counts
        found = _run(batch, policy, 4)
        assert np.array_equal(found.demand, expected.demand)
        assert (found.accesses, found.cold_fills) == (expected.accesses, expected.cold_fills)


@pytest.mark.parametrize(("fresh", "questions"), [(True, "ov pov pov"), (False, "ov pov pov")])
def test_order_of_questions(fresh: bool, questions: str, make_trace: MakeTrace) -> None:
    made: list[Recency] = []

    def open_(context: SteeringContext, model: object) -> Recency:
        made.append(Recency(context))
        return made[-1]

    policy = SteeredPolicy("x", "x", open=open_, needs_model=False, fresh=fresh)
    _run(make_batch([make_trace(0, sequences=1, steps=3)]), policy, 4)
    assert "".join(word[0] for word in made[0].diary) == questions.replace(" ", "")


@dataclass
class Oracle(Recency):
    """Prefetches exactly what a step will select, and more if asked to."""

    trace: SequenceTrace | None = None
    early: int = 0
    extra: bool = False
    step: int = 0

    def prefetch(self, length: int, lookahead: Mapping[int, Int32], resident: Bool) -> Prefetch | None:
        assert self.trace is not None
        self.step += 1
        assert length == self.trace.lengths[self.step]
        shown = self.trace.pages[self.step] if self.extra else None
        pages = np.where(self.trace.selected[self.step], self.trace.pages[self.step], -1)
        pages = pages if shown is None else shown
        return Prefetch(pages, np.zeros(pages.shape, np.float32), self.early)

    def values(self, lanes: Int32, pages: Int32) -> Float32:
        return super().values(lanes, pages) + 1


def _oracle(trace: Trace, *, early: int, extra: bool = False) -> SteeredPolicy:
    def open_(context: SteeringContext, model: object) -> Oracle:
        return Oracle(context, trace=trace.sequences[context.sequence], early=early, extra=extra)

    return SteeredPolicy("oracle", "knows", open=open_, needs_model=False)


@pytest.mark.parametrize("early", [0, 1, 2])
@pytest.mark.parametrize("pool", POOLS)
def test_perfect_prefetch_leaves_no_demand(early: int, pool: Pool, make_trace: MakeTrace) -> None:
    trace = make_trace(3, steps=12)
    counts = _run(make_batch([trace]), _oracle(trace, early=early), 6, pool)
    assert counts.demand_misses == 0
    assert counts.prefetched.keys() == {early}
    assert counts.prefetched_hits == counts.prefetched_pages > 0


def test_prefetch_of_more_than_is_used_is_counted_as_moved_only(make_trace: MakeTrace) -> None:
    trace = make_trace(3, steps=12)
    counts = _run(make_batch([trace]), _oracle(trace, early=1, extra=True), 14)
    assert counts.demand_misses == 0
    assert 0 < counts.prefetched_hits < counts.prefetched_pages


def test_prefetch_evicts_only_what_is_worse(make_trace: MakeTrace) -> None:
    """A candidate that is colder than all that is resident finds no slot."""

    class Cold(Recency):
        def prefetch(self, length: int, lookahead: Mapping[int, Int32], resident: Bool) -> Prefetch | None:
            lanes = resident.shape[0]
            everything = np.tile(np.arange(self.context.page_count, dtype=np.int32), (lanes, 1))
            return Prefetch(everything, np.full(everything.shape, 1e9, np.float32), 0)

    trace = make_trace(2, full=True, steps=12, selected=4, candidates=4)
    policy = SteeredPolicy("x", "x", open=lambda c, m: Cold(c), needs_model=False)
    counts = _run(make_batch([trace]), policy, 4)
    assert counts.prefetched_pages == 0
    assert counts.demand_misses == count(make_batch([trace]), "lru", ratio=1.0, pool="lane").counts.demand_misses


def test_fresh_values_of_later_lanes_are_not_known_earlier(make_trace: MakeTrace) -> None:
    """In the shared pool a lane's new values count from its turn on: marking layer 1 cold cannot help layer 0."""

    class Marks(Recency):
        def values(self, lanes: Int32, pages: Int32) -> Float32:
            if self.now == 0:
                return np.where(lanes == 1, 1.0, 2.0).astype(np.float32)
            return np.where(lanes == 1, 3.0, 2.0).astype(np.float32)

    # lane 0 demands page 0, then 1; lane 1 demands page 0 both times. Two slots: lane 0's own page has to go.
    base = make_trace(0, sequences=1, steps=2, layers=2, kv_heads=1, selected=1, candidates=1, pages=2, full=True)
    s = base.sequences[0]
    pages = np.array([[[0], [0]], [[1], [0]]], np.int32)
    trace = Trace(base.meta, [replace(s, pages=pages)])
    policy = SteeredPolicy("x", "x", open=lambda c, m: Marks(c), needs_model=False, fresh=True)
    counts = _run(make_batch([trace]), policy, 1, "shared")
    assert counts.demand.tolist() == [[0, 0], [1, 0]]


def test_a_model_is_asked_for(make_trace: MakeTrace) -> None:
    policy = SteeredPolicy("x", "x", open=lambda c, m: Recency(c))
    with pytest.raises(PolicyError, match="needs a model"):
        _run(make_batch([make_trace(0)]), policy, 4)
