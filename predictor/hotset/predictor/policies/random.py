"""Random: evict any page that is not in use, each with the same chance; the same pages for the same seed.

miss:   draw slots until one holds a page not in use; it is replaced

The generator is SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014),
written out so that no library version changes the counts.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from hotset.predictor.policies.base import Demand, ListPolicy
from hotset.predictor.trace.sequence import Bool


@njit(cache=True)
def _run(demand: Demand, capacity: int, key_count: int, seed: int) -> Bool:
    resident = np.empty(min(capacity, key_count), np.int32)
    is_resident, used = np.zeros(key_count, np.bool_), np.zeros(key_count, np.int32)
    filled, state = 0, np.uint64(seed)
    missed = np.zeros(len(demand.keys), np.bool_)
    for group in range(len(demand.stamps)):
        low, high, stamp = demand.offsets[group], demand.offsets[group + 1], demand.stamps[group]
        for i in range(low, high):
            used[demand.keys[i]] = stamp
            missed[i] = not is_resident[demand.keys[i]]
        for i in range(low, high):
            if not missed[i]:
                continue
            slot = np.int64(filled)
            if filled < len(resident):
                filled += 1
            else:
                slot = np.int64(-1)
                while slot < 0 or used[resident[slot]] == stamp:
                    state += np.uint64(0x9E3779B97F4A7C15)
                    slot = np.int64(_mix(state) % np.uint64(len(resident)))
                is_resident[resident[slot]] = False
            resident[slot] = demand.keys[i]
            is_resident[demand.keys[i]] = True
    return missed


@njit(cache=True)
def _mix(z: np.uint64) -> np.uint64:
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


POLICY = ListPolicy("random", "any page, by seed", run=_run)
