"""The compiled pools follow the rules of DESIGN.md: compared with a replay that is slow and plain."""

from __future__ import annotations

from collections.abc import Callable
from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hotset.predictor.policies import RankedPolicy, get_policy
from hotset.predictor.replay import Pool, replay
from hotset.predictor.replay.batch import Batch, make_batch
from hotset.predictor.replay.run import count
from hotset.predictor.trace import Trace

MakeTrace = Callable[..., Trace]
RANKED = ["lru", "lfu", "score", "score-ema", "belady"]
POOLS: tuple[Pool, ...] = get_args(Pool)


def _plain_misses(batch: Batch, policy: RankedPolicy, slots: int, *, shared: bool) -> dict[tuple[int, int], int]:
    """(epoch, layer) -> demand misses, by dictionaries and a scan of all resident pages for each victim."""
    values = [policy.values(m.trace, m.clock, m.meta) for m in batch.members]
    turns = sorted(
        (int(m.clock.turns[t, lane]), number, t, lane)
        for number, m in enumerate(batch.members)
        for t in range(len(m.trace.steps))
        for lane in range(m.lanes)
    )
    value: dict[tuple[int, int, int], float] = {}
    used: dict[tuple[int, int, int], int] = {}
    resident: set[tuple[int, int, int]] = set()
    total = slots * batch.members[0].lanes * len(batch.members)
    missed: dict[tuple[int, int], int] = {}
    for _, number, t, lane in turns:
        trace, epoch = batch.members[number].trace, int(batch.members[number].clock.epochs[t])
        for page, new in zip(trace.pages[t, lane].tolist(), values[number][t, lane].tolist(), strict=True):
            if page >= 0 and new == new:
                value[number, lane, page] = new
        demanded = [(number, lane, p) for p in trace.pages[t, lane][trace.selected[t, lane]].tolist()]
        used |= dict.fromkeys(demanded, epoch)
        for page_id in demanded:
            if page_id in resident:
                continue
            pool = resident if shared else {p for p in resident if p[:2] == (number, lane)}
            if len(pool) == (total if shared else slots):
                idle = [p for p in pool if used[p] != epoch]
                resident.remove(max(idle, key=lambda p: (value[p], -p[0], -p[1], -p[2])))
            resident.add(page_id)
            key = (epoch, lane // batch.meta.kv_heads)
            missed[key] = missed.get(key, 0) + (t > 0)
    return missed


@pytest.mark.parametrize("name", RANKED)
@pytest.mark.parametrize("pool", POOLS)
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), ratio=st.sampled_from([1.0, 1.34, 2.0]), kv_heads=st.integers(1, 3))
def test_counts_by_epoch_and_layer(
    name: str, pool: Pool, seed: int, ratio: float, kv_heads: int, make_trace: MakeTrace
) -> None:
    batch = make_batch([make_trace(seed, kv_heads=kv_heads), make_trace(seed + 1, kv_heads=kv_heads, sequences=1)])
    policy = get_policy(name)
    assert isinstance(policy, RankedPolicy)
    counts = count(batch, name, ratio=ratio, pool=pool).counts
    expected = np.zeros_like(counts.demand)
    for key, misses in _plain_misses(batch, policy, round(3 * ratio), shared=pool == "shared").items():
        expected[key] = misses
    assert np.array_equal(counts.demand, expected)


def test_a_page_used_in_this_step_is_no_victim_in_it(make_trace: MakeTrace) -> None:
    """With one slot more than a selection, whatever is demanded together stays together."""
    trace = make_trace(1, sequences=1, layers=1, kv_heads=1, full=True, selected=3, candidates=3, pages=4)
    s = trace.sequences[0]
    assert replay([trace], "lru", ratio=4 / 3).demand_misses == len(set(s.pages[1:].ravel()) - set(s.pages[0].ravel()))


def test_the_table_of_the_sample_is_ordered(sample: Trace) -> None:
    lru, ema, belady = (replay([sample], p, ratio=2.0).demand_misses for p in ("lru", "score-ema", "belady"))
    assert belady < ema < lru
