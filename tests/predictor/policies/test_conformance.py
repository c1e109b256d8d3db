"""What holds for every policy that evicts on demand, on random traces and the sample, with both pools."""

from __future__ import annotations

from collections.abc import Callable
from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hotset.predictor.policies import POLICIES, Policy, PolicyError, get_policy
from hotset.predictor.replay import Pool, ReplayResult, replay_many
from hotset.predictor.replay.batch import make_batch
from hotset.predictor.replay.run import count
from hotset.predictor.trace import Trace

HEURISTICS = [name for name in POLICIES if not name.startswith(("learned", "lookahead"))]
POOLS: tuple[Pool, ...] = get_args(Pool)
MakeTrace = Callable[..., Trace]

every_policy = pytest.mark.parametrize("name", HEURISTICS)
both_pools = pytest.mark.parametrize("pool", POOLS)


def _one(trace: Trace, name: str, ratio: float, pool: Pool) -> ReplayResult:
    return replay_many([trace], [name], ratio=ratio, pool=pool)[0]


def _compulsory(trace: Trace) -> int:
    """Pages of a lane that are first demanded after its first step: no policy can have them without prefetch."""
    total = 0
    for s in trace.sequences:
        for lane in range(s.pages.shape[1]):
            first = set(s.pages[0, lane][s.selected[0, lane]].tolist())
            total += len(set(s.pages[1:, lane][s.selected[1:, lane]].tolist()) - first)
    return total


@every_policy
def test_module_says_who_it_is(name: str) -> None:
    policy = get_policy(name)
    assert isinstance(policy, Policy)
    assert policy.name == name
    assert policy.summary
    assert policy.clairvoyant == (name == "belady")


@every_policy
@both_pools
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000), ratio=st.sampled_from([1.0, 1.34, 2.0, 3.0]))
def test_counts_are_bounded(name: str, pool: Pool, seed: int, ratio: float, make_trace: MakeTrace) -> None:
    trace = make_trace(seed)
    found, belady = replay_many([trace], [name, "belady"], ratio=ratio, pool=pool)
    accesses = sum(int(np.count_nonzero(s.selected)) for s in trace.sequences)
    assert found.accesses == accesses
    assert found.cold_fills == sum(int(np.count_nonzero(s.selected[0])) for s in trace.sequences)
    assert _compulsory(trace) <= belady.demand_misses <= found.demand_misses <= accesses - found.cold_fills
    assert found.prefetched_pages == found.prefetched_hits == 0
    assert found.moved_pages == found.demand_misses
    assert found.moved_bytes == found.demand_misses * trace.meta.page_bytes


@every_policy
@both_pools
def test_a_pool_that_holds_all_misses_each_page_once(name: str, pool: Pool, make_trace: MakeTrace) -> None:
    trace = make_trace(3, steps=20)
    assert _one(trace, name, 10.0, pool).demand_misses == _compulsory(trace)


@every_policy
def test_a_pool_of_one_selection_keeps_the_last_selection(name: str, make_trace: MakeTrace) -> None:
    trace = make_trace(4, full=True, steps=15)
    expected = 0
    for s in trace.sequences:
        for t in range(1, 15):
            for lane in range(s.pages.shape[1]):
                before, now = (set(s.pages[u, lane][s.selected[u, lane]].tolist()) for u in (t - 1, t))
                expected += len(now - before)
    assert _one(trace, name, 1.0, "lane").demand_misses == expected


@every_policy
@both_pools
def test_same_seed_same_counts(name: str, pool: Pool, sample: Trace) -> None:
    short = Trace(sample.meta, [s.head(12) for s in sample.sequences])
    batch = make_batch([short])
    first, again = (count(batch, name, ratio=1.5, pool=pool, seed=9).counts for _ in range(2))
    assert np.array_equal(first.demand, again.demand)
    assert first.demand_misses > 0


@every_policy
def test_lane_pools_do_not_know_of_each_other(name: str, make_trace: MakeTrace) -> None:
    trace = make_trace(11, sequences=3, full=True)
    alone = sum(_one(Trace(trace.meta, [s]), name, 1.5, "lane").demand_misses for s in trace.sequences)
    assert _one(trace, name, 1.5, "lane").demand_misses == alone


def test_random_depends_on_its_seed(sample: Trace) -> None:
    batch = make_batch([Trace(sample.meta, [sample.sequences[0].head(12)])])
    counts = {count(batch, "random", ratio=1.5, pool="lane", seed=s).counts.demand_misses for s in range(4)}
    assert len(counts) > 1


def test_unknown_policy_names_the_known() -> None:
    with pytest.raises(PolicyError, match="no policy 'mru'; there are lru, lfu"):
        get_policy("mru")


def test_belady_equals_exhaustive_search(make_trace: MakeTrace) -> None:
    """The bound is the optimum: over every choice of victims, nothing misses less (tiny shared pools)."""
    for seed in range(12):
        trace = make_trace(
            seed, sequences=1, steps=5, layers=2, kv_heads=1, selected=2, candidates=4, pages=5, full=True
        )
        assert _one(trace, "belady", 1.5, "shared").demand_misses == _fewest_misses(trace, slots=6)


def _fewest_misses(trace: Trace, slots: int) -> int:
    s = trace.sequences[0]
    best = {frozenset[tuple[int, int]](): 0}
    for t in range(len(s.steps)):
        in_use: set[tuple[int, int]] = set()
        for lane in range(s.pages.shape[1]):
            now = {(lane, int(p)) for p in s.pages[t, lane][s.selected[t, lane]]}
            in_use |= now
            following: dict[frozenset[tuple[int, int]], int] = {}
            for held, misses in best.items():
                cost = misses + (len(now - held) if t else 0)
                for kept in _evictions(held | now, in_use, slots):
                    following[kept] = min(cost, following.get(kept, cost))
            best = following
    return min(best.values())


def _evictions(
    held: frozenset[tuple[int, int]], in_use: set[tuple[int, int]], slots: int
) -> set[frozenset[tuple[int, int]]]:
    """Every way to shrink `held` to `slots` pages without touching those in use."""
    ways = {held}
    while len(next(iter(ways))) > slots:
        ways = {way - {page} for way in ways for page in way - in_use}
    return ways
