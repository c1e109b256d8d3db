"""check_integrity of the simulated pool: the invariants of hotset.runtime.integrity, as assertions."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from hotset.ops.simulate.pool import SimPool
from hotset.ops.simulate.slots import FILLING, FREE, HEAD, LIVE, OFF, PINNED, RESERVED, SLOTS_IN, TAIL, Slots


def check_integrity(pool: SimPool, tails: Iterable[int]) -> None:
    """Raise AssertionError naming the first invariant that does not hold; `tails` are the groups of all tails."""
    _check_slots(pool.s)
    _check_ring(pool.s)
    _check_flights(pool)
    pinned = {int(group) for group in pool.s.page_of[pool.s.state == PINNED] // pool.lanes}
    assert pinned == set(tails), "what is pinned is not what is a tail"
    assert pool.count(PINNED) == len(pinned) * pool.lanes, "a tail is pinned in part"
    assert pool.count(OFF) == pool.geometry.slots - pool.limit, "the hot set does not have the slots that it should"


def _check_slots(s: Slots) -> None:
    mapped = np.flatnonzero(s.slot_of >= 0)
    slots = s.slot_of[mapped]
    assert len(np.unique(slots)) == len(slots), "two pages share a slot"
    assert (s.page_of[slots] == mapped).all(), "page_of is not the inverse of slot_of"
    backed = np.zeros(len(s.state), np.bool_)
    backed[slots] = True
    assert backed[(s.state == LIVE) | (s.state == PINNED)].all(), "a live or pinned slot has no page"
    assert not backed[(s.state == FREE) | (s.state == FILLING) | (s.state == OFF)].any(), "a page has no usable slot"
    assert (s.page_of[(s.state == FREE) | (s.state == OFF)] < 0).all(), "an empty slot names a page"
    assert (s.page_of[s.state == FILLING] >= 0).all(), "a filling slot names no page"
    assert (np.bincount(s.state, minlength=6) == s.counts[SLOTS_IN : SLOTS_IN + 6]).all(), "a count of slots is off"


def _check_ring(s: Slots) -> None:
    head, tail = int(s.counts[HEAD]), int(s.counts[TAIL])
    assert 0 <= tail - head <= len(s.ring), "the ring has overrun"
    entries = s.ring[np.arange(head, tail) % len(s.ring)]
    assert len(np.unique(entries)) == len(entries), "a slot stands in the ring twice"
    named = np.zeros(len(s.state), np.bool_)
    named[entries] = True
    assert (named == s.in_ring).all(), "in_ring disagrees with the ring"
    assert named[s.state == RESERVED].all(), "a reserved slot is not in the ring"


def _check_flights(pool: SimPool) -> None:
    flying = np.sort(np.concatenate([np.empty(0, np.int32), *(f.slots for f in pool.flights)]))
    assert (flying == np.flatnonzero(pool.s.state == FILLING)).all(), "slots in flight are not those that fill"
