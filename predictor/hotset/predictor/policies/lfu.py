"""LFU with decay: evict the page with the fewest uses, where a use counts half after HALF_LIFE steps.

on use at t: count = count * 2^(-(t - last)/HALF_LIFE) + 1; last = t
victim:      the smallest count as of now, then the lower page

All counts shrink by the same factor a step, so -(log2(count) + t/HALF_LIFE), fixed at the last use, keeps their
order. Counts outlive eviction ("perfect" LFU). LRFU, Lee et al., IEEE Trans. Computers 2001, with lambda = 1/HALF_LIFE.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from hotset.predictor.policies.base import Clock, Float64, RankedPolicy
from hotset.predictor.trace.sequence import Bool, Int32, Int64, SequenceTrace
from hotset.protos.trace import TraceMeta

HALF_LIFE = 8.0


def _values(sequence: SequenceTrace, clock: Clock, meta: TraceMeta) -> Float64:
    return _run(sequence.pages, sequence.selected, clock.epochs, sequence.page_count, HALF_LIFE)


@njit(cache=True)
def _run(pages: Int32, selected: Bool, epochs: Int64, page_count: int, half_life: float) -> Float64:
    steps, lanes, n = pages.shape
    values = np.full(pages.shape, np.nan)
    count = np.zeros((lanes, page_count))
    last = np.zeros((lanes, page_count), np.int64)
    for t in range(steps):
        for lane in range(lanes):
            for i in range(n):
                if not selected[t, lane, i]:
                    continue
                page = pages[t, lane, i]
                age = epochs[t] - last[lane, page]
                count[lane, page] = count[lane, page] * 2 ** (-age / half_life) + 1
                last[lane, page] = epochs[t]
                values[t, lane, i] = -np.log2(count[lane, page]) - epochs[t] / half_life
    return values


POLICY = RankedPolicy("lfu", f"least frequently used, uses halved every {HALF_LIFE:g} steps", values=_values)
