"""Belady: evict the page whose next use is furthest away (clairvoyant; the bound under demand paging).

on use: value = moment of the page's next demand, +inf if there is none
victim: the largest value

Moments are in the order of service, so the same values bound lane pools and the shared pool.
Belady, "A study of replacement algorithms for a virtual-storage computer", IBM Systems Journal 1966.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from hotset.predictor.policies.base import Clock, Float64, RankedPolicy
from hotset.predictor.trace.sequence import Bool, Int32, Int64, SequenceTrace
from hotset.protos.trace import TraceMeta


def _values(sequence: SequenceTrace, clock: Clock, meta: TraceMeta) -> Float64:
    return _next_use(sequence.pages, sequence.selected, clock.turns, sequence.page_count)


@njit(cache=True)
def _next_use(pages: Int32, selected: Bool, turns: Int64, page_count: int) -> Float64:
    steps, lanes, n = pages.shape
    values = np.full(pages.shape, np.nan)
    following = np.full((lanes, page_count), np.inf)
    for t in range(steps - 1, -1, -1):
        for lane in range(lanes):
            for i in range(n):
                if selected[t, lane, i]:
                    page = pages[t, lane, i]
                    values[t, lane, i] = following[lane, page]
                    following[lane, page] = turns[t, lane]
    return values


POLICY = RankedPolicy("belady", "furthest next use; clairvoyant", clairvoyant=True, values=_values)
