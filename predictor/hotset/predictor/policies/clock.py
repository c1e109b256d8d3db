"""CLOCK: a circle of pages and a hand, one bit a page.

hit:    set the page's bit
miss:   while the page at the hand is in use or has its bit set: clear the bit (unless in use), advance
        replace the page at the hand by the new one, bit clear; advance

Corbató, "A paging experiment with the Multics system", MIT 1968. The bit starts clear, so that a page used
once goes at the first turn of the hand.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from hotset.predictor.policies.base import Demand, ListPolicy
from hotset.predictor.trace.sequence import Bool


@njit(cache=True)
def _run(demand: Demand, capacity: int, key_count: int, seed: int) -> Bool:
    circle = np.empty(min(capacity, key_count), np.int32)
    slot_of = np.full(key_count, -1, np.int32)
    bit, used = np.zeros(key_count, np.bool_), np.zeros(key_count, np.int32)
    filled, hand = 0, 0
    missed = np.zeros(len(demand.keys), np.bool_)
    for group in range(len(demand.stamps)):
        low, high, stamp = demand.offsets[group], demand.offsets[group + 1], demand.stamps[group]
        for i in range(low, high):
            key = demand.keys[i]
            used[key] = stamp
            bit[key] = slot_of[key] >= 0
            missed[i] = slot_of[key] < 0
        for i in range(low, high):
            if not missed[i]:
                continue
            slot = filled
            if filled < len(circle):
                filled += 1
            else:
                while used[circle[hand]] == stamp or bit[circle[hand]]:
                    if used[circle[hand]] != stamp:
                        bit[circle[hand]] = False
                    hand = (hand + 1) % len(circle)
                slot_of[circle[hand]] = -1
                slot = hand
                hand = (hand + 1) % len(circle)
            circle[slot] = demand.keys[i]
            slot_of[demand.keys[i]] = slot
    return missed


POLICY = ListPolicy("clock", "second chance: one bit a page, one hand", run=_run)
