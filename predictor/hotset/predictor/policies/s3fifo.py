"""S3-FIFO: a small, a main and a ghost FIFO queue; most pages leave through the small one.

hit:     freq = min(freq + 1, 3)
miss:    while full: evict from small if it has a tenth of the slots or more, else from main
         insert into main if the page is in ghost, else into small; freq = 0
small:   until one is evicted: the oldest goes to main if freq > 1 (and main, if over its share, evicts one),
         else it is evicted and remembered in ghost
main:    until one is evicted: the oldest is reinserted with freq - 1 if freq > 0, else evicted

Yang et al., "FIFO queues are all you need for cache eviction", SOSP 2023, algorithm 1. Ghost holds as many
pages as main may. A queue whose pages are all in use gives way to the other.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from numba import njit

from hotset.predictor.policies.base import Demand, ListPolicy
from hotset.predictor.policies.queues import NOWHERE, Queues, make_queues, move, oldest, push, remove, victim
from hotset.predictor.trace.sequence import Bool

_SMALL, _MAIN, _GHOST = range(3)


@njit(cache=True)
def _run(demand: Demand, capacity: int, key_count: int, seed: int) -> Bool:
    queues = make_queues(key_count, 3)
    freq = np.zeros(key_count, np.int8)
    missed = np.zeros(len(demand.keys), np.bool_)
    for group in range(len(demand.stamps)):
        low, high, stamp = demand.offsets[group], demand.offsets[group + 1], demand.stamps[group]
        for i in range(low, high):
            key = demand.keys[i]
            queues.used[key] = stamp
            missed[i] = queues.where[key] == NOWHERE or queues.where[key] == _GHOST
            if not missed[i]:
                freq[key] = min(freq[key] + 1, 3)
        for i in range(low, high):
            if not missed[i]:
                continue
            while queues.size[_SMALL] + queues.size[_MAIN] >= capacity:
                _evict(queues, freq, capacity, stamp)
            known = queues.where[demand.keys[i]] == _GHOST
            if known:
                remove(queues, demand.keys[i])
            push(queues, _MAIN if known else _SMALL, demand.keys[i])
            freq[demand.keys[i]] = 0
    return missed


@njit(cache=True)
def _evict(queues: Queues, freq: npt.NDArray[np.int8], capacity: int, stamp: int) -> None:
    share = max(1, capacity // 10)
    small_first = queues.size[_SMALL] >= share
    if small_first and _evict_small(queues, freq, capacity - share, stamp):
        return
    if not _evict_main(queues, freq, stamp):
        _evict_small(queues, freq, capacity - share, stamp)


@njit(cache=True)
def _evict_small(queues: Queues, freq: npt.NDArray[np.int8], main_share: int, stamp: int) -> bool:
    """True unless every page was in use or went to main without one leaving."""
    while True:
        key = victim(queues, _SMALL, stamp)
        if key < 0:
            return False
        if freq[key] <= 1:
            move(queues, _GHOST, key)
            if queues.size[_GHOST] > main_share:
                remove(queues, oldest(queues, _GHOST))
            return True
        move(queues, _MAIN, key)
        if queues.size[_MAIN] > main_share and _evict_main(queues, freq, stamp):
            return True


@njit(cache=True)
def _evict_main(queues: Queues, freq: npt.NDArray[np.int8], stamp: int) -> bool:
    while True:
        key = victim(queues, _MAIN, stamp)
        if key < 0:
            return False
        if freq[key] == 0:
            remove(queues, key)
            return True
        freq[key] -= 1
        move(queues, _MAIN, key)


POLICY = ListPolicy("s3fifo", "small, main and ghost FIFO queues", run=_run)
