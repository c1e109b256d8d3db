"""Queues of keys for list policies: linked lists over arrays, one list a key, all operations O(1).

    list w:  last (oldest) <- ... <- first (newest)        a key is in list `where[key]`, -1: in none

A list knows which of its keys are demanded at the current stamp ("in use"), and gives its oldest key that is
not. Keys in use that it meets on the way go to the newest end: they were used just now.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from numba import njit

from hotset.predictor.trace.sequence import Int32, Int64

NOWHERE = -1


class Queues(NamedTuple):
    """W lists over K keys. Node K + w is both ends of list w."""

    newer: Int32
    """[K + W]"""
    older: Int32
    """[K + W]"""
    where: npt.NDArray[np.int8]
    """[K]"""
    size: Int64
    """[W]"""
    used: Int32
    """[K] stamp at which the key was last in use"""
    dry: Int32
    """[W] stamp at which every key of the list was found in use, and none joined since that was not"""


@njit(cache=True)
def make_queues(keys: int, lists: int) -> Queues:
    """Empty lists."""
    ends = np.arange(keys + lists).astype(np.int32)
    return Queues(
        ends.copy(),
        ends.copy(),
        np.full(keys, NOWHERE, np.int8),
        np.zeros(lists, np.int64),
        np.zeros(keys, np.int32),
        np.zeros(lists, np.int32),
    )


@njit(cache=True)
def push(queues: Queues, which: int, key: int) -> None:
    """Make `key`, which is in no list, the newest of list `which`."""
    end = len(queues.where) + which
    first = queues.older[end]
    queues.older[end] = key
    queues.newer[key] = end
    queues.older[key] = first
    queues.newer[first] = key
    queues.where[key] = which
    queues.size[which] += 1
    if queues.used[key] != queues.dry[which]:
        queues.dry[which] = 0


@njit(cache=True)
def remove(queues: Queues, key: int) -> None:
    """Take `key` out of the list it is in."""
    newer, older = queues.newer[key], queues.older[key]
    queues.older[newer] = older
    queues.newer[older] = newer
    queues.size[queues.where[key]] -= 1
    queues.where[key] = NOWHERE


@njit(cache=True)
def move(queues: Queues, which: int, key: int) -> None:
    """Make `key` the newest of list `which`, from wherever it is."""
    remove(queues, key)
    push(queues, which, key)


@njit(cache=True)
def oldest(queues: Queues, which: int) -> int:
    """Oldest key of a list that is not empty, in use or not."""
    return int(queues.newer[len(queues.where) + which])


@njit(cache=True)
def victim(queues: Queues, which: int, stamp: int) -> int:
    """Oldest key not in use at `stamp`, or -1; those in use that are older become the newest."""
    if queues.dry[which] == stamp:
        return -1
    for _ in range(queues.size[which]):
        key = oldest(queues, which)
        if queues.used[key] != stamp:
            return key
        move(queues, which, key)
    queues.dry[which] = stamp
    return -1
