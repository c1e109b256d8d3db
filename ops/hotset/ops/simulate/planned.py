"""Compiled residency, second part: what plans, prefetches, freed groups and a changed memory share do to slots."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from numba import njit

from hotset.ops.simulate.slots import (
    FILLING,
    FREE,
    LIVE,
    NEVER,
    OFF,
    RESERVED,
    SLOTS_IN,
    TICK,
    TOUCHED,
    Bool,
    Int32,
    Int64,
    Slots,
    evict,
    pop,
    set_state,
    touch_log,
)

Uint32 = npt.NDArray[np.uint32]
Float32 = npt.NDArray[np.float32]
VALUE_REASONS = ("out_of_range", "stale_generation", "not_finite", "not_resident", "superseded")
PREFETCH_REASONS = ("not_stored", "out_of_range", "stale_generation", "resident", "in_flight", "reserve_low")


@njit(cache=True)
def apply_values(
    s: Slots, lanes: int, pages: Int32, generations: Uint32, values: Float32, epoch_tick: int, until_tick: int
) -> Int64:
    """As kernels.apply_plan: [1 + reasons] entries applied, then rejected by the first of VALUE_REASONS that holds."""
    out = np.zeros(6, np.int64)
    for i in range(len(pages)):
        page = pages[i]
        if page < 0 or page >= len(s.slot_of):
            out[1] += 1
        elif np.int64(generations[i]) != s.generation[page // lanes]:
            out[2] += 1
        elif not np.isfinite(values[i]):
            out[3] += 1
        elif s.slot_of[page] < 0:
            out[4] += 1
        elif s.last_used[s.slot_of[page]] > epoch_tick:
            out[5] += 1
        else:
            s.value[s.slot_of[page]] = values[i]
            s.value_until[s.slot_of[page]] = until_tick
            out[0] += 1
    return out


@njit(cache=True)
def write_values(s: Slots, pages: Int32, values: Float32, until_tick: int) -> None:
    """As kernels.decide.write_values: `values` [m] of `pages` [m] that have a slot hold up to `until_tick`."""
    for i in range(len(pages)):
        slot = s.slot_of[pages[i]]
        if slot >= 0:
            s.value[slot] = values[i]
            s.value_until[slot] = until_tick


@njit(cache=True)
def rescue(s: Slots, pages: Int32) -> None:
    """As kernels.decide.rescue: `pages` [m], all resident, leave the reserve."""
    for page in pages:
        if s.state[s.slot_of[page]] == RESERVED:
            set_state(s, s.slot_of[page], LIVE)


@njit(cache=True)
def begin_prefetch(
    s: Slots, lanes: int, pages: Int32, generations: Uint32, in_flight: Bool, keep: int
) -> tuple[Int32, Int32, Int64]:
    """As kernels.prefetch.begin_prefetch: (pages, slots) begun, and counts by PREFETCH_REASONS.

    in_flight: [P] marks of pages in flight, which are set here.
    """
    begun, slots = np.empty(len(pages), np.int32), np.empty(len(pages), np.int32)
    out = np.zeros(7, np.int64)
    room = max(0, s.counts[SLOTS_IN + RESERVED] - keep)
    for i in range(len(pages)):
        page = pages[i]
        if page < 0 or page >= len(s.slot_of):
            out[2] += 1
        elif not s.stored[page // lanes]:
            out[1] += 1
        elif np.int64(generations[i]) != s.generation[page // lanes]:
            out[3] += 1
        elif s.slot_of[page] >= 0:
            out[4] += 1
        elif in_flight[page]:
            out[5] += 1
        elif out[0] >= room:
            out[6] += 1
        else:
            slot = pop(s)
            s.page_of[slot] = page
            set_state(s, slot, FILLING)
            in_flight[page] = True
            begun[out[0]], slots[out[0]] = page, slot
            out[0] += 1
    return begun[: out[0]], slots[: out[0]], out


@njit(cache=True)
def commit_prefetch(s: Slots, lanes: int, pages: Int32, slots: Int32, generations: Int32, in_flight: Bool) -> int:
    """End the flight of `slots` ([m]), whose copies have arrived; returns how many became visible."""
    visible = 0
    for i in range(len(pages)):
        page, slot = pages[i], slots[i]
        in_flight[page] = False
        if s.slot_of[page] < 0 and s.generation[page // lanes] == generations[i]:
            s.slot_of[page] = slot
            set_state(s, slot, LIVE)
            s.prefetched[slot] = True
            s.last_used[slot] = s.counts[TICK]
            s.value_until[slot] = NEVER
            touch_log(s, page)
            visible += 1
        else:
            s.page_of[slot] = -1
            set_state(s, slot, FREE)
    return visible


@njit(cache=True)
def release(s: Slots, lanes: int, groups: Int32) -> None:
    """Free the slots of all pages of `groups` (distinct) and advance their generation."""
    for group in groups:
        for page in range(group * lanes, (group + 1) * lanes):
            s.ema[page] = 0.0
            slot = s.slot_of[page]
            if slot >= 0:
                evict(s, slot)
                set_state(s, slot, FREE)
        s.generation[group] += 1
        s.stored[group] = False


@njit(cache=True)
def set_group_state(s: Slots, lanes: int, group: int, state: int) -> None:
    """Pin or unpin the slots of a group that is resident as a whole."""
    for page in range(group * lanes, (group + 1) * lanes):
        set_state(s, s.slot_of[page], state)


@njit(cache=True)
def warm(s: Slots, pages: Int32, room: int) -> int:
    """Fill up to `room` FREE slots with `pages` (best first, some may be resident); returns how many."""
    done, slot = 0, 0
    for page in pages:
        if s.slot_of[page] >= 0:
            continue
        while slot < len(s.state) and s.state[slot] != FREE:
            slot += 1
        if done == room or slot == len(s.state):
            break
        s.page_of[slot] = page
        s.slot_of[page] = slot
        set_state(s, slot, LIVE)
        s.last_used[slot] = s.counts[TICK]
        s.value_until[slot] = NEVER
        touch_log(s, page)
        done += 1
    return done


@njit(cache=True)
def take_off(s: Slots, count: int) -> int:
    """Put up to `count` slots OFF: empty ones, then those of the reserve. Returns how many."""
    done = 0
    for slot in range(len(s.state)):
        if done == count:
            break
        if s.state[slot] == FREE:
            set_state(s, slot, OFF)
            done += 1
    while done < count:
        slot = pop(s)
        if slot < 0:
            break
        set_state(s, slot, OFF)
        done += 1
    return done


@njit(cache=True)
def put_on(s: Slots, count: int) -> None:
    """Make `count` OFF slots usable again."""
    for slot in range(len(s.state)):
        if count == 0:
            return
        if s.state[slot] == OFF:
            set_state(s, slot, FREE)
            count -= 1


@njit(cache=True)
def drain(s: Slots) -> tuple[Int32, Int32]:
    """Pages that gained and that lost their slot since the last call; each page stands in one, ascending."""
    total = s.counts[TOUCHED]
    pages = np.sort(s.touched[:total])
    held = np.zeros(total, np.bool_)
    for i in range(total):
        held[i] = s.slot_of[pages[i]] >= 0
        s.is_touched[pages[i]] = False
    s.counts[TOUCHED] = 0
    return pages[held], pages[~held]
