"""Compiled residency: what `hotset.kernels` does to slots, over numpy arrays and without data.

The rules are those of kernels/*/reference.py, and the same words: a hit rescues a reserved slot, a miss takes the next
slot of the reserve, a tail is pinned, a prefetch fills a slot that becomes visible at a safe point. One state more:
a slot that is OFF belongs to memory that the hot set does not have now.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from numba import njit

from hotset.protos.heat import CEILING, DECAY, EPSILON, FLOOR
from hotset.protos.messages import AccessFlag

Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]
UInt8 = npt.NDArray[np.uint8]
Bool = npt.NDArray[np.bool_]
Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]

FREE, LIVE, RESERVED, PINNED, FILLING, OFF = range(6)
LRU, SCORE, MARGIN = range(3)
NEVER = -(1 << 60)
HEAD, TAIL, TICK, STEP_TICK, STEP, TOUCHED = range(6)
SLOTS_IN = 8
"""counts[SLOTS_IN + state]: how many slots are in `state`"""
HIT, PREFETCHED = int(AccessFlag.HIT), int(AccessFlag.PREFETCHED)
_TIE = 2.0**-40
_AGES = 129
_DECAYS = DECAY ** np.arange(_AGES)


class Slots(NamedTuple):
    """`P` physical pages, `S` slots, `G` groups; see hotset.kernels.state for what each means."""

    slot_of: Int32
    """[P], -1 where not resident"""
    page_of: Int32
    """[S], -1 where empty"""
    state: UInt8
    """[S]"""
    last_used: Int64
    """[S] tick"""
    prefetched: Bool
    """[S]"""
    value: Float32
    """[S]"""
    value_until: Int64
    """[S] tick"""
    ema: Float32
    """[P] average of scores or margins as of step `seen`"""
    seen: Int32
    """[P]"""
    generation: Int32
    """[G]"""
    stored: Bool
    """[G] sealed, so that a page can be loaded"""
    ring: Int32
    """[S]"""
    in_ring: Bool
    """[S]"""
    touched: Int32
    """[P] pages that gained or lost a slot since the log was drained; counts[TOUCHED] are valid"""
    is_touched: Bool
    """[P]"""
    counts: Int64
    """positions of the ring, ticks, and slots by state"""


def make_slots(slots: int, groups: int, lanes: int) -> Slots:
    """A pool with nothing resident and an empty reserve."""
    pages = groups * lanes
    counts = np.zeros(16, np.int64)
    counts[SLOTS_IN + FREE] = slots
    return Slots(
        np.full(pages, -1, np.int32),
        np.full(slots, -1, np.int32),
        np.full(slots, FREE, np.uint8),
        np.full(slots, NEVER, np.int64),
        np.zeros(slots, np.bool_),
        np.zeros(slots, np.float32),
        np.full(slots, NEVER, np.int64),
        np.zeros(pages, np.float32),
        np.zeros(pages, np.int32),
        np.zeros(groups, np.int32),
        np.zeros(groups, np.bool_),
        np.full(slots, -1, np.int32),
        np.zeros(slots, np.bool_),
        np.zeros(pages, np.int32),
        np.zeros(pages, np.bool_),
        counts,
    )


@njit(cache=True)
def set_state(s: Slots, slot: int, state: int) -> None:
    """Change a slot's state and keep the counts."""
    s.counts[SLOTS_IN + s.state[slot]] -= 1
    s.counts[SLOTS_IN + state] += 1
    s.state[slot] = state


@njit(cache=True)
def touch_log(s: Slots, page: int) -> None:
    """Note that a page gained or lost its slot."""
    if not s.is_touched[page]:
        s.is_touched[page] = True
        s.touched[s.counts[TOUCHED]] = page
        s.counts[TOUCHED] += 1


@njit(cache=True)
def evict(s: Slots, slot: int) -> None:
    """Unmap whatever page a slot holds; the slot keeps its state."""
    page = s.page_of[slot]
    if page >= 0:
        s.slot_of[page] = -1
        s.page_of[slot] = -1
        s.prefetched[slot] = False
        touch_log(s, page)


@njit(cache=True)
def push(s: Slots, slot: int) -> None:
    """Reserve a slot that is FREE or LIVE."""
    set_state(s, slot, RESERVED)
    if not s.in_ring[slot]:
        s.ring[s.counts[TAIL] % len(s.ring)] = slot
        s.in_ring[slot] = True
        s.counts[TAIL] += 1


@njit(cache=True)
def pop(s: Slots) -> int:
    """Take the next reserved slot, emptied; -1 if there is none. The caller gives it its next state."""
    while s.counts[HEAD] < s.counts[TAIL]:
        slot = s.ring[s.counts[HEAD] % len(s.ring)]
        s.counts[HEAD] += 1
        s.in_ring[slot] = False
        if s.state[slot] == RESERVED:
            evict(s, slot)
            return int(slot)
    return -1


@njit(cache=True)
def use(s: Slots, physical: Int32, selected: Bool, flags: UInt8, first: int, end: int) -> Int32:
    """Mark the selected pages of lanes first..end-1 as used now, and flag the hits; returns distinct pages missed.

    physical, selected, flags: [sequences, lanes, n].
    """
    missed = np.empty(physical.shape[0] * (end - first) * physical.shape[2], np.int32)
    count, tick = 0, s.counts[TICK]
    for b in range(physical.shape[0]):
        for lane in range(first, end):
            for i in range(physical.shape[2]):
                if not selected[b, lane, i]:
                    continue
                slot = s.slot_of[physical[b, lane, i]]
                if slot < 0:
                    missed[count] = physical[b, lane, i]
                    count += 1
                    continue
                flags[b, lane, i] |= HIT
                if s.prefetched[slot]:
                    flags[b, lane, i] |= PREFETCHED
                    s.prefetched[slot] = False
                s.last_used[slot] = tick
                s.value_until[slot] = NEVER
                if s.state[slot] == RESERVED:
                    set_state(s, slot, LIVE)
    return np.unique(missed[:count])


@njit(cache=True)
def place(s: Slots, pages: Int32, state: int) -> None:
    """Give `pages` ([m], distinct, not resident) the next slots of the reserve, which must hold as many."""
    for page in pages:
        slot = pop(s)
        s.page_of[slot] = page
        s.slot_of[page] = slot
        s.last_used[slot] = s.counts[TICK]
        s.value_until[slot] = NEVER
        set_state(s, slot, state)
        touch_log(s, page)


@njit(cache=True)
def rank(s: Slots, policy: int, used_since: int, ticks_per_step: int) -> Float64:
    """[S] value of every LIVE slot that was last used before `used_since`; -inf for all others."""
    tick, step = s.counts[TICK], s.counts[STEP]
    out = np.full(len(s.state), -np.inf)
    for slot in range(len(s.state)):
        if s.state[slot] != LIVE or s.last_used[slot] >= used_since:
            continue
        age = (tick - s.last_used[slot]) / ticks_per_step
        if s.value_until[slot] >= tick:
            value = float(s.value[slot])
        elif policy == LRU:
            value = np.log2(1.0 + age)
        else:
            page = s.page_of[slot]
            average = s.ema[page] * _DECAYS[min(step - s.seen[page], _AGES - 1)]
            value = CEILING - np.log2(average + EPSILON) if policy == MARGIN else (255.0 - average) / 8.0
        out[slot] = value + age * _TIE
    return out


@njit(cache=True)
def reserve_free(s: Slots, count: int) -> int:
    """Reserve up to `count` FREE slots; returns how many."""
    done = 0
    if s.counts[SLOTS_IN + FREE] == 0:
        return 0
    for slot in range(len(s.state)):
        if done == count:
            break
        if s.state[slot] == FREE:
            push(s, slot)
            done += 1
    return done


@njit(cache=True)
def reserve_from(s: Slots, queue: Int64, at: int, count: int, used_since: int) -> tuple[int, int]:
    """Reserve up to `count` slots of `queue` from `at` on that are victims still; returns how many, and the next."""
    done = 0
    while at < len(queue) and done < count:
        slot = queue[at]
        at += 1
        if s.state[slot] == LIVE and s.last_used[slot] < used_since:
            push(s, slot)
            done += 1
    return done, at


@njit(cache=True)
def observe(s: Slots, physical: Int32, scores: UInt8, selected: Bool, margins: bool) -> None:
    """Fold a step's candidates ([sequences, lanes, n]) into the averages; a shared page counts once."""
    step = s.counts[STEP]
    for b in range(physical.shape[0]):
        for lane in range(physical.shape[1]):
            threshold = 0.0
            for i in range(physical.shape[2]):
                if margins and physical[b, lane, i] >= 0 and not selected[b, lane, i]:
                    threshold = max(threshold, float(scores[b, lane, i]))
            for i in range(physical.shape[2]):
                page = physical[b, lane, i]
                if page < 0 or (s.seen[page] == step and s.ema[page] > 0):
                    continue
                heat = float(scores[b, lane, i])
                if margins:
                    heat = max(FLOOR + heat - threshold, FLOOR if selected[b, lane, i] else 0.0)
                aged = s.ema[page] * _DECAYS[min(step - s.seen[page], _AGES - 1)]
                s.ema[page] = aged + (1 - DECAY) * heat
                s.seen[page] = step
