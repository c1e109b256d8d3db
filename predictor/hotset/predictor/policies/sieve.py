"""SIEVE: a FIFO queue, one bit a page, and a hand that moves from the oldest page to the newest.

hit:    set the page's bit
miss:   while the page at the hand is in use or has its bit set: clear the bit (unless in use), go to the next
        newer page, from the newest to the oldest; evict the page at the hand; the hand stays there
        insert the new page as the newest, bit clear

Zhang et al., "SIEVE is simpler than LRU", NSDI 2024, algorithm 1.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from hotset.predictor.policies.base import Demand, ListPolicy
from hotset.predictor.policies.queues import NOWHERE, make_queues, oldest, push, remove
from hotset.predictor.trace.sequence import Bool


@njit(cache=True)
def _run(demand: Demand, capacity: int, key_count: int, seed: int) -> Bool:
    queue = make_queues(key_count, 1)
    bit = np.zeros(key_count, np.bool_)
    end = hand = key_count
    missed = np.zeros(len(demand.keys), np.bool_)
    for group in range(len(demand.stamps)):
        low, high, stamp = demand.offsets[group], demand.offsets[group + 1], demand.stamps[group]
        for i in range(low, high):
            key = demand.keys[i]
            queue.used[key] = stamp
            missed[i] = queue.where[key] == NOWHERE
            bit[key] = not missed[i]
        for i in range(low, high):
            if not missed[i]:
                continue
            if queue.size[0] == capacity:
                if hand == end:
                    hand = oldest(queue, 0)
                while queue.used[hand] == stamp or bit[hand]:
                    if queue.used[hand] != stamp:
                        bit[hand] = False
                    hand = queue.newer[hand]
                    if hand == end:
                        hand = oldest(queue, 0)
                gone, hand = hand, queue.newer[hand]
                remove(queue, gone)
            push(queue, 0, demand.keys[i])
    return missed


POLICY = ListPolicy("sieve", "FIFO with lazy promotion by a moving hand", run=_run)
