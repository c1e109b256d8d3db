"""W-TinyLFU: a small LRU window before a segmented LRU whose door is kept by aged use counts.

use:     count = min(count + 1, 15); every 10c uses all counts are halved
hit:     window, protected: becomes the newest. probation: to protected; protected over 80% of main gives its oldest
         back to probation
miss:    insert into the window. If it is over its share (1%, at least one), its oldest is the candidate for main:
         with a free slot it joins probation; else it and main's victim (probation's oldest, or protected's)
         compare counts, and the candidate joins probation only if its own is larger

Einziger, Friedman and Manes, "TinyLFU: a highly efficient cache admission policy", ACM TOS 2017, section 4. Counts are
exact, not sketched: pages are few. A candidate in use is admitted without contest.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

from hotset.predictor.policies.base import Demand, ListPolicy
from hotset.predictor.policies.queues import NOWHERE, Queues, make_queues, move, oldest, push, remove, victim
from hotset.predictor.trace.sequence import Bool, Int32, Int64

_WINDOW, _PROBATION, _PROTECTED = range(3)
_MOST = 15


class _State(NamedTuple):
    queues: Queues
    counts: Int32
    uses: Int64
    """[1] since counts were halved"""
    capacity: int
    window: int
    """slots of the window"""
    protected: int
    """slots of the protected segment"""


@njit(cache=True)
def _run(demand: Demand, capacity: int, key_count: int, seed: int) -> Bool:
    window = max(1, capacity // 100)
    protected = (capacity - window) * 8 // 10
    state = _State(
        make_queues(key_count, 3),
        np.zeros(key_count, np.int32),
        np.zeros(1, np.int64),
        capacity,
        window,
        protected,
    )
    missed = np.zeros(len(demand.keys), np.bool_)
    for group in range(len(demand.stamps)):
        low, high, stamp = demand.offsets[group], demand.offsets[group + 1], demand.stamps[group]
        for i in range(low, high):
            key = demand.keys[i]
            state.queues.used[key] = stamp
            _use(state, key)
            missed[i] = state.queues.where[key] == NOWHERE
            if not missed[i]:
                _hit(state, key)
        for i in range(low, high):
            if missed[i]:
                _miss(state, demand.keys[i], stamp)
    return missed


@njit(cache=True)
def _use(state: _State, key: int) -> None:
    state.counts[key] = min(state.counts[key] + 1, _MOST)
    state.uses[0] += 1
    if state.uses[0] >= 10 * state.capacity:
        state.uses[0] = 0
        for other in range(len(state.counts)):
            state.counts[other] //= 2


@njit(cache=True)
def _hit(state: _State, key: int) -> None:
    queues = state.queues
    move(queues, _WINDOW if queues.where[key] == _WINDOW else _PROTECTED, key)
    if queues.size[_PROTECTED] > state.protected:
        move(queues, _PROBATION, oldest(queues, _PROTECTED))


@njit(cache=True)
def _miss(state: _State, key: int, stamp: int) -> None:
    queues = state.queues
    push(queues, _WINDOW, key)
    if queues.size[_WINDOW] > state.window:
        candidate = oldest(queues, _WINDOW)
        if queues.size.sum() > state.capacity and _loses(state, candidate, stamp):
            remove(queues, candidate)
        else:
            move(queues, _PROBATION, candidate)
    if queues.size.sum() > state.capacity:
        remove(queues, _main_victim(queues, stamp))


@njit(cache=True)
def _loses(state: _State, candidate: int, stamp: int) -> bool:
    """Whether the candidate, not main's victim, has to go."""
    if state.queues.used[candidate] == stamp:
        return False
    rival = _main_victim(state.queues, stamp)
    return rival < 0 or state.counts[candidate] <= state.counts[rival]


@njit(cache=True)
def _main_victim(queues: Queues, stamp: int) -> int:
    key = victim(queues, _PROBATION, stamp)
    if key < 0:
        key = victim(queues, _PROTECTED, stamp)
    return key


POLICY = ListPolicy("wtinylfu", "LRU window, and a segmented LRU admitting by use counts", run=_run)
