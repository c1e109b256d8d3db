"""ARC: recency list T1 and frequency list T2, ghosts B1 and B2, and an adaptive target p for |T1|.

hit:           move to the newest of T2
miss in B1:    p = min(p + max(1, |B2|/|B1|), c); replace; insert into T2
miss in B2:    p = max(p - max(1, |B1|/|B2|), 0); replace; insert into T2
other miss:    trim the ghosts (|T1|+|B1| <= c, all four <= 2c); replace if full; insert into T1
replace:       T1's oldest to B1 if |T1| > p (or = p and the miss is in B2), else T2's oldest to B2

Megiddo and Modha, "ARC: a self-tuning, low overhead replacement cache", FAST 2003, figure 4. If the list
chosen by replace holds only pages in use, the other one gives.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from hotset.predictor.policies.base import Demand, ListPolicy
from hotset.predictor.policies.queues import Queues, make_queues, move, oldest, push, remove, victim
from hotset.predictor.trace.sequence import Bool

_T1, _T2, _B1, _B2 = range(4)


@njit(cache=True)
def _run(demand: Demand, capacity: int, key_count: int, seed: int) -> Bool:
    queues = make_queues(key_count, 4)
    target = 0.0
    missed = np.zeros(len(demand.keys), np.bool_)
    for group in range(len(demand.stamps)):
        low, high, stamp = demand.offsets[group], demand.offsets[group + 1], demand.stamps[group]
        for i in range(low, high):
            key = demand.keys[i]
            queues.used[key] = stamp
            missed[i] = queues.where[key] != _T1 and queues.where[key] != _T2
            if not missed[i]:
                move(queues, _T2, key)
        for i in range(low, high):
            if missed[i]:
                target = _miss(queues, demand.keys[i], target, capacity, stamp)
    return missed


@njit(cache=True)
def _miss(queues: Queues, key: int, target: float, capacity: int, stamp: int) -> float:
    """Load `key`; returns the new target."""
    size, ghost = queues.size, queues.where[key]
    if ghost == _B1:
        target = min(target + max(1.0, size[_B2] / size[_B1]), capacity)
    elif ghost == _B2:
        target = max(target - max(1.0, size[_B1] / size[_B2]), 0.0)
    if ghost in (_B1, _B2):
        _replace(queues, target, ghost == _B2, stamp)
        move(queues, _T2, key)
        return target
    if size[_T1] + size[_B1] == capacity:
        if size[_T1] < capacity:
            remove(queues, oldest(queues, _B1))
            _replace(queues, target, False, stamp)
        else:
            remove(queues, victim(queues, _T1, stamp))
    elif size.sum() >= capacity:
        if size.sum() == 2 * capacity:
            remove(queues, oldest(queues, _B2))
        _replace(queues, target, False, stamp)
    push(queues, _T1, key)
    return target


@njit(cache=True)
def _replace(queues: Queues, target: float, in_b2: bool, stamp: int) -> None:
    recent = queues.size[_T1]
    from_t1 = recent >= 1 and (recent > target or (in_b2 and recent == target))
    key = victim(queues, _T1 if from_t1 else _T2, stamp)
    if key < 0:
        from_t1 = not from_t1
        key = victim(queues, _T1 if from_t1 else _T2, stamp)
    move(queues, _B1 if from_t1 else _B2, key)


POLICY = ListPolicy("arc", "recency and frequency lists, balanced by ghosts", run=_run)
