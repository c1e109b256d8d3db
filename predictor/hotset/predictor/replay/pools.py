"""The compiled pool: resident pages with values, the worst of which is evicted.

One structure serves both kinds of pool. Each lane keeps a list of its resident pages and the worst of them;
a lane pool takes its victims from its own list, the shared pool from the worst lane, found by a winner tree
over the lanes. A change in a lane costs a scan of its list and a path of the tree, never a scan of the pool,
and values of all pages may change between steps at no cost but one scan.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from numba import njit

from hotset.predictor.policies.base import Float64
from hotset.predictor.trace.sequence import Bool, Int32, Int64

MISSED, PREFETCHED, PREFETCHED_HITS, SELECTED = range(4)
COUNTS = 4


class Pools(NamedTuple):
    """State of the pools of L lanes with pages below P. A page index `slot` counts within its lane's list."""

    shared: bool
    free: Int64
    """[1] slots of the shared pool that hold nothing, or [L] those of each lane's pool"""
    resident: Int32
    """[L, R] pages of each lane; the first filled[lane] are valid"""
    filled: Int64
    """[L]"""
    slot_of: Int32
    """[L, P] index in resident[lane], -1 if not resident"""
    value: Float64
    """[L, P]"""
    used: Int64
    """[L, P] stamp of the last selection; a page of the current stamp is no victim"""
    unproven: npt.NDArray[np.bool_]
    """[L, P] resident by prefetch and not used since"""
    worst: Int32
    """[L] index of the lane's victim, -1 if it has none"""
    tree: Int32
    """[2 * leaves] winner tree over lanes, leaves at the end; lane number or -1. Root at 1."""


def make_pools(lanes: int, pages: int, slots_per_lane: int, *, shared: bool) -> Pools:
    """Empty pools: one of lanes * slots_per_lane slots, or one of slots_per_lane a lane."""
    leaves = 1
    while leaves < lanes:
        leaves *= 2
    return Pools(
        shared,
        np.full(1, lanes * slots_per_lane) if shared else np.full(lanes, slots_per_lane),
        np.empty((lanes, pages if shared else min(pages, slots_per_lane)), np.int32),
        np.zeros(lanes, np.int64),
        np.full((lanes, pages), -1, np.int32),
        np.full((lanes, pages), np.inf),
        np.full((lanes, pages), -1, np.int64),
        np.zeros((lanes, pages), np.bool_),
        np.full(lanes, -1, np.int32),
        np.full(2 * leaves, -1, np.int32),
    )


@njit(cache=True)
def residents(pools: Pools) -> tuple[Int32, Int32]:
    """Lanes [m] and pages [m] of all that is resident, by lane."""
    total = pools.filled.sum()
    lanes, pages = np.empty(total, np.int32), np.empty(total, np.int32)
    at = 0
    for lane in range(len(pools.filled)):
        for slot in range(pools.filled[lane]):
            lanes[at] = lane
            pages[at] = pools.resident[lane, slot]
            at += 1
    return lanes, pages


@njit(cache=True)
def begin_step(pools: Pools, stamp: int) -> None:
    """Find every lane's victim anew: values may have changed, and the last step's pages lose protection."""
    for lane in range(len(pools.filled)):
        _find_worst(pools, lane, stamp)
    if pools.shared:
        leaves = len(pools.tree) // 2
        for lane in range(len(pools.filled)):
            pools.tree[leaves + lane] = lane if pools.worst[lane] >= 0 else -1
        for node in range(leaves - 1, 0, -1):
            _play(pools, node)


@njit(cache=True)
def prefetch_step(pools: Pools, stamp: int, order: Int64, pages: Int32, values: Float64, counts: Int64) -> None:
    """Planned prefetches [L, r] of all lanes, after `begin_step` and before `serve`."""
    for lane in order:
        counts[lane, PREFETCHED] += prefetch(pools, stamp, lane, pages[lane], values[lane])


@njit(cache=True)
def prefetch(pools: Pools, stamp: int, lane: int, pages: Int32, values: Float64) -> int:
    """Bring in pages [r] of a lane, best first, where a worse page or a free slot is; returns how many.

    Those that are resident take the new value first, so that none of the list evicts another for an old value.
    """
    for i in range(len(pages)):
        if pages[i] >= 0 and pools.slot_of[lane, pages[i]] >= 0 and not np.isnan(values[i]):
            pools.value[lane, pages[i]] = values[i]
    _update(pools, lane, stamp)
    moved = 0
    for i in range(len(pages)):
        page = pages[i]
        if page < 0 or pools.slot_of[lane, page] >= 0:
            continue
        if not _make_room(pools, stamp, lane, values[i]):
            continue
        pools.value[lane, page] = values[i]
        pools.unproven[lane, page] = True
        _add(pools, stamp, lane, page)
        moved += 1
    return moved


@njit(cache=True)
def serve(
    pools: Pools,
    stamp: int,
    order: Int64,
    pages: Int32,
    selected: Bool,
    values: Float64,
    pending: Float64,
    early_pages: Int32,
    early_values: Float64,
    counts: Int64,
) -> bool:
    """One step of all lanes in `order`, after `begin_step`; False if a pool cannot hold a selection.

    pages, selected, values: [L, n] candidates and their new values, NaN for none (or [L, 0] values: no change).
    pending: [L, P] new values of resident pages from their lane's turn on, NaN for none; or [0, 0].
    early_*: [L, r] prefetches at the lane's turn. counts: [L, COUNTS] are added to.
    """
    for lane in order:
        if early_pages.shape[1]:
            counts[lane, PREFETCHED] += prefetch(pools, stamp, lane, early_pages[lane], early_values[lane])
        _new_values(pools, lane, pages, selected, values, pending)
        for i in range(pages.shape[1]):
            if selected[lane, i]:
                page = pages[lane, i]
                pools.used[lane, page] = stamp
                counts[lane, SELECTED] += 1
                if pools.slot_of[lane, page] >= 0 and pools.unproven[lane, page]:
                    pools.unproven[lane, page] = False
                    counts[lane, PREFETCHED_HITS] += 1
        _update(pools, lane, stamp)
        for i in range(pages.shape[1]):
            if selected[lane, i] and pools.slot_of[lane, pages[lane, i]] < 0:
                counts[lane, MISSED] += 1
                if not _make_room(pools, stamp, lane, -np.inf):
                    return False
                pools.unproven[lane, pages[lane, i]] = False
                _add(pools, stamp, lane, pages[lane, i])
    return True


@njit(cache=True)
def _new_values(pools: Pools, lane: int, pages: Int32, selected: Bool, values: Float64, pending: Float64) -> None:
    for i in range(values.shape[1]):
        if pages[lane, i] >= 0 and not np.isnan(values[lane, i]):
            pools.value[lane, pages[lane, i]] = values[lane, i]
    if pending.shape[0] == 0:
        return
    for slot in range(pools.filled[lane]):
        page = pools.resident[lane, slot]
        if not np.isnan(pending[lane, page]):
            pools.value[lane, page] = pending[lane, page]
    for i in range(pages.shape[1]):
        if selected[lane, i] and not np.isnan(pending[lane, pages[lane, i]]):
            pools.value[lane, pages[lane, i]] = pending[lane, pages[lane, i]]


@njit(cache=True)
def _make_room(pools: Pools, stamp: int, lane: int, than: float) -> bool:
    """Take a free slot for `lane`, or that of the worst page if its value is larger than `than`."""
    pool = 0 if pools.shared else lane
    if pools.free[pool] > 0:
        pools.free[pool] -= 1
        return True
    loser = pools.tree[1] if pools.shared else lane
    if loser < 0 or pools.worst[loser] < 0:
        return False
    slot = pools.worst[loser]
    page = pools.resident[loser, slot]
    if than > -np.inf and not pools.value[loser, page] > than:
        return False
    last = pools.filled[loser] - 1
    moved = pools.resident[loser, last]
    pools.resident[loser, slot] = moved
    pools.slot_of[loser, moved] = slot
    pools.slot_of[loser, page] = -1
    pools.filled[loser] = last
    _update(pools, loser, stamp)
    return True


@njit(cache=True)
def _add(pools: Pools, stamp: int, lane: int, page: int) -> None:
    slot = pools.filled[lane]
    pools.resident[lane, slot] = page
    pools.slot_of[lane, page] = slot
    pools.filled[lane] = slot + 1
    if pools.used[lane, page] != stamp:
        _update(pools, lane, stamp)


@njit(cache=True)
def _find_worst(pools: Pools, lane: int, stamp: int) -> None:
    worst, worst_page, worst_value = -1, 0, 0.0
    for slot in range(pools.filled[lane]):
        page = pools.resident[lane, slot]
        if pools.used[lane, page] == stamp:
            continue
        value = pools.value[lane, page]
        if worst < 0 or value > worst_value or (value == worst_value and page < worst_page):
            worst, worst_page, worst_value = slot, page, value
    pools.worst[lane] = worst


@njit(cache=True)
def _update(pools: Pools, lane: int, stamp: int) -> None:
    """Find the lane's victim anew and replay its matches up the tree."""
    _find_worst(pools, lane, stamp)
    if pools.shared:
        node = len(pools.tree) // 2 + lane
        pools.tree[node] = lane if pools.worst[lane] >= 0 else -1
        node //= 2
        while node:
            _play(pools, node)
            node //= 2


@njit(cache=True)
def _play(pools: Pools, node: int) -> None:
    """The lane with the worse victim wins; the lower lane (the left one) wins ties."""
    left, right = pools.tree[2 * node], pools.tree[2 * node + 1]
    if left < 0 or right < 0:
        pools.tree[node] = max(left, right)
        return
    mine = pools.value[left, pools.resident[left, pools.worst[left]]]
    theirs = pools.value[right, pools.resident[right, pools.worst[right]]]
    pools.tree[node] = right if theirs > mine else left
