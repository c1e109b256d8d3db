# ruff: noqa: N803 - compile-time parameters are upper case, as everywhere in Triton
# mypy: disable-error-code="import-untyped, no-untyped-def, untyped-decorator"
"""Triton kernels of prefetch. Entries are taken in order, so a single program does it: of the 32 that look together how
full the reserve is, whichever is done last.

While it runs, slot_of of an entry's page is FIRST + the entry's number, least entry first: so repeated pages are found
without a search.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import triton
import triton.language as tl

from hotset.kernels.state import FILLING as _FILLING
from hotset.kernels.state import SCRATCH_AHEAD as _LEVEL
from hotset.kernels.state import ResidencyState
from hotset.kernels.victims import FREE, LIVE, NEVER, RESERVED

if TYPE_CHECKING:
    from hotset.kernels.prefetch import Ahead

FILLING = tl.constexpr(_FILLING)
FIRST = tl.constexpr(-(1 << 30))
LEVEL, ARRIVED = tl.constexpr(_LEVEL), tl.constexpr(_LEVEL + 1)
BLOCK = 1024
COUNTING = 32


@triton.jit
def _counted(scratch, ring, kind, ring_head, ring_tail, slots, BLOCK: tl.constexpr):
    """Count the reserve, each program its part; True for the last to be done, which may then call _spare."""
    head = tl.load(ring_head)
    held = (tl.load(ring_tail) - head).to(tl.int32)
    level = tl.zeros([], tl.int32)
    start = tl.program_id(0) * BLOCK
    while start < held:
        i = start + tl.arange(0, BLOCK)
        entry = tl.load(ring + (head + i) % slots, mask=i < held, other=0)
        level += tl.sum((tl.load(kind + entry, mask=i < held, other=0) == RESERVED).to(tl.int32))
        start += tl.num_programs(0) * BLOCK
    tl.atomic_add(scratch + LEVEL, level, sem="relaxed")
    tl.debug_barrier()
    return tl.atomic_add(scratch + ARRIVED, 1, sem="acq_rel") == tl.num_programs(0) - 1


@triton.jit
def _spare(scratch, keep):
    """Reserved slots beyond `keep`; leaves the counters as the next call needs them."""
    level = tl.atomic_xchg(scratch + LEVEL, 0, sem="relaxed")
    tl.store(scratch + ARRIVED, 0)
    return tl.maximum(level - keep, 0)


@triton.jit
def _unmark(pages, slot_of, total, page_count, BLOCK: tl.constexpr):
    """Take back the numbers of the first `total` entries."""
    start = 0
    while start < total:
        n = start + tl.arange(0, BLOCK)
        page = tl.load(pages + n, mask=n < total, other=-1)
        inside = (page >= 0) & (page < page_count)
        slot = tl.load(slot_of + page, mask=inside, other=0)
        tl.store(slot_of + page, -1, mask=inside & (slot < -1))
        start += BLOCK


@triton.jit
def _take_slots(
    begun, out_pages, out_slots, slot_of, page_of, kind, prefetched, ring, in_ring, ring_head, ring_tail,
    evicted, evicted_count, cause, why, slots, CAUSE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Give reserved slots, in ring order, to the first `begun` of out_pages; they are on record."""
    head = tl.load(ring_head)
    tail = tl.load(ring_tail)
    lost_before = tl.load(evicted_count)
    popped = tl.zeros([], tl.int32)
    taken = tl.zeros([], tl.int32)
    while (taken < begun) & (head + popped < tail):
        where = head + popped + tl.arange(0, BLOCK)
        entry = tl.load(ring + where % slots, mask=where < tail, other=0)
        good = (where < tail) & (tl.load(kind + entry, mask=where < tail, other=0) == RESERVED)
        rank = taken + tl.cumsum(good.to(tl.int32), 0) - good.to(tl.int32)
        passed = (where < tail) & (rank < begun)
        tl.store(in_ring + entry, 0, mask=passed)
        put = good & passed
        old = tl.load(page_of + entry, mask=put, other=-1)
        lost = old >= 0
        at = lost_before + tl.cumsum(lost.to(tl.int32), 0) - 1
        tl.store(evicted + at, old, mask=lost & (at < slots))
        tl.store(slot_of + old, -1, mask=lost)
        tl.store(page_of + entry, tl.load(out_pages + rank, mask=put, other=-1), mask=put)
        tl.store(kind + entry, FILLING, mask=put)
        tl.store(prefetched + entry, 0, mask=put)
        tl.store(out_slots + rank, entry, mask=put)
        if CAUSE:
            tl.store(cause + entry, why, mask=put)
        lost_before += tl.sum(lost.to(tl.int32))
        taken += tl.sum(put.to(tl.int32))
        popped += tl.sum(passed.to(tl.int32))
    tl.store(ring_head, head + popped)
    tl.store(evicted_count, lost_before)


@triton.jit(do_not_specialize=["total", "page_count", "slots", "lanes", "keep"])
def _begin(
    pages, generations, frame_of, out_pages, out_slots, out_generations, counts, slot_of, page_of, kind, prefetched,
    in_flight, generation, ring, in_ring, ring_head, ring_tail, evicted, evicted_count, scratch,
    total, page_count, slots, lanes, keep, FRAMES: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    start = tl.program_id(0) * BLOCK
    while start < total:
        n = start + tl.arange(0, BLOCK)
        tl.store(out_pages + n, -1, mask=n < total)
        tl.store(out_slots + n, -1, mask=n < total)
        start += tl.num_programs(0) * BLOCK
    if _counted(scratch, ring, kind, ring_head, ring_tail, slots, BLOCK):
        spare = _spare(scratch, keep)
        begun = tl.zeros([], tl.int32)
        start = 0
        while start < total:
            n = start + tl.arange(0, BLOCK)
            there = n < total
            page = tl.load(pages + n, mask=there, other=-1)
            inside = (page >= 0) & (page < page_count)
            stored = inside
            if FRAMES:
                stored = inside & (tl.load(frame_of + page, mask=inside, other=-1) >= 0)
            asked = tl.load(generations + n, mask=there, other=-2)
            fresh = tl.load(generation + page // lanes, mask=inside, other=-1).to(tl.int64) == asked
            slot = tl.load(slot_of + page, mask=inside, other=0)
            idle = tl.load(in_flight + page, mask=inside, other=1) == 0
            wanted = there & stored & fresh & (slot == -1) & idle
            tl.debug_barrier()
            tl.atomic_min(slot_of + page, FIRST + n, mask=wanted, sem="relaxed")
            tl.debug_barrier()
            wanted = wanted & (tl.load(slot_of + page, mask=wanted, other=0, volatile=True) == FIRST + n)
            rank = begun + tl.cumsum(wanted.to(tl.int32), 0) - 1
            good = wanted & (rank < spare)
            tl.store(out_pages + rank, page, mask=good)
            tl.store(out_generations + rank, asked, mask=good)
            tl.store(in_flight + page, 1, mask=good)
            # The first reason that holds, in the order of REASONS; 0 is none.
            reason = tl.where(good, 0, tl.where(wanted, 6, 5))
            reason = tl.where(slot >= 0, 4, reason)
            reason = tl.where(fresh, reason, 3)
            reason = tl.where(inside, reason, 2)
            reason = tl.where(inside & ~stored, 1, reason)
            for code in tl.static_range(7):
                tl.atomic_add(counts + code, tl.sum((there & (reason == code)).to(tl.int64)), sem="relaxed")
            begun += tl.sum(good.to(tl.int32))
            start += BLOCK
        tl.debug_barrier()
        _unmark(pages, slot_of, total, page_count, BLOCK)
        tl.debug_barrier()
        _take_slots(
            begun, out_pages, out_slots, slot_of, page_of, kind, prefetched, ring, in_ring, ring_head, ring_tail,
            evicted, evicted_count, page_of, 0, slots, False, BLOCK,
        )  # fmt: skip


@triton.jit(do_not_specialize=["limit", "page_count", "slots", "keep"])
def _begin_ahead(
    pages, wanted, most, room, frame_of, out_pages, out_slots, count, slot_of, page_of, kind, prefetched,
    ring, in_ring, ring_head, ring_tail, evicted, evicted_count, in_flight, cause, scratch,
    limit, page_count, slots, keep, WHY: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    if _counted(scratch, ring, kind, ring_head, ring_tail, slots, BLOCK):
        spare = _spare(scratch, keep)
        total = tl.minimum(tl.minimum(tl.load(wanted), limit), tl.minimum(tl.load(most), tl.load(room)))
        begun = tl.zeros([], tl.int32)
        start = 0
        while start < total:
            n = start + tl.arange(0, BLOCK)
            page = tl.load(pages + n, mask=n < total, other=-1)
            good = (page >= 0) & (page < page_count)
            good = good & (tl.load(frame_of + page, mask=good, other=-1) >= 0)
            good = good & (tl.load(in_flight + page, mask=good, other=1) == 0)
            good = good & (tl.load(slot_of + page, mask=good, other=0) == -1)
            tl.debug_barrier()
            # Sequences that share a page may both ask for it.
            tl.atomic_min(slot_of + page, FIRST + n, mask=good, sem="relaxed")
            tl.debug_barrier()
            good = good & (tl.load(slot_of + page, mask=good, other=0, volatile=True) == FIRST + n)
            rank = begun + tl.cumsum(good.to(tl.int32), 0) - 1
            tl.store(out_pages + rank, page, mask=good & (rank < spare))
            tl.store(in_flight + page, 1, mask=good & (rank < spare))
            begun += tl.sum(good.to(tl.int32))
            start += BLOCK
        begun = tl.minimum(begun, spare)
        tl.store(count, begun)
        tl.debug_barrier()
        _unmark(pages, slot_of, total, page_count, BLOCK)
        tl.debug_barrier()
        _take_slots(
            begun, out_pages, out_slots, slot_of, page_of, kind, prefetched, ring, in_ring, ring_head, ring_tail,
            evicted, evicted_count, cause, WHY, slots, True, BLOCK,
        )  # fmt: skip


@triton.jit(do_not_specialize=["total", "lanes"], do_not_specialize_on_alignment=["wasted"])
def _commit(
    pages, slots, generations, visible, wasted, slot_of, page_of, kind, prefetched, in_flight, last_used, value_until,
    generation, tick_at, total, lanes,
    WASTED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    n = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    page = tl.load(pages + n, mask=n < total, other=-1).to(tl.int32)
    slot = tl.load(slots + n, mask=n < total, other=-1).to(tl.int32)
    there = (page >= 0) & (slot >= 0)
    current = tl.load(generation + page // lanes, mask=there, other=-1).to(tl.int64)
    fresh = current == tl.load(generations + n, mask=there, other=-2)
    wanted = there & fresh & (tl.load(slot_of + page, mask=there, other=0) < 0)
    tick = tl.load(tick_at)
    tl.store(in_flight + page, 0, mask=there)
    tl.store(slot_of + page, slot, mask=wanted)
    tl.store(kind + slot, tl.where(wanted, LIVE, FREE), mask=there)
    tl.store(prefetched + slot, 1, mask=wanted)
    tl.store(last_used + slot, tick, mask=wanted)
    tl.store(value_until + slot, NEVER, mask=wanted)
    tl.store(page_of + slot, -1, mask=there & ~wanted)
    tl.store(visible + n, wanted, mask=n < total)
    if WASTED:
        lost = tl.sum((there & ~wanted).to(tl.int64))
        tl.atomic_add(wasted, lost, mask=lost > 0, sem="relaxed")


@triton.jit(do_not_specialize_on_alignment=["wasted"])
def _commit_ahead(
    pages, slots, count, wasted, slot_of, page_of, kind, prefetched, in_flight, last_used, value_until, tick_at,
    BLOCK: tl.constexpr,
):  # fmt: skip
    n = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    there = n < tl.load(count)
    if tl.program_id(0) * BLOCK < tl.load(count):
        page = tl.load(pages + n, mask=there, other=-1)
        slot = tl.load(slots + n, mask=there, other=-1)
        wanted = there & (tl.load(slot_of + page, mask=there, other=0) < 0)
        tl.store(in_flight + page, 0, mask=there)
        tl.store(slot_of + page, slot, mask=wanted)
        tl.store(kind + slot, tl.where(wanted, LIVE, FREE), mask=there)
        tl.store(prefetched + slot, 1, mask=wanted)
        tl.store(last_used + slot, tl.load(tick_at), mask=wanted)
        tl.store(value_until + slot, NEVER, mask=wanted)
        tl.store(page_of + slot, -1, mask=there & ~wanted)
        lost = tl.sum((there & ~wanted).to(tl.int64))
        tl.atomic_add(wasted, lost, mask=lost > 0, sem="relaxed")


def begin(
    state: ResidencyState, pages: torch.Tensor, generations: torch.Tensor, keep: int,
    frame_of: torch.Tensor | None, counts: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:  # fmt: skip
    """Arguments as checked by the public function."""
    begun, slots, fresh = torch.empty_like(pages), torch.empty_like(pages), torch.empty_like(generations)
    _begin[(COUNTING,)](
        pages, generations, state.slot_of if frame_of is None else frame_of, begun, slots, fresh, counts,
        state.slot_of, state.page_of, state.state, state.prefetched.view(torch.uint8),
        state.in_flight.view(torch.uint8), state.generation, state.ring, state.in_ring.view(torch.uint8),
        state.ring_head, state.ring_tail, state.evicted, state.evicted_count, state.scratch,
        pages.numel(), state.slot_of.numel(), state.slots, state.lanes, keep,
        FRAMES=frame_of is not None, BLOCK=BLOCK, num_warps=8,
    )  # fmt: skip
    return begun, slots, fresh


def commit(
    state: ResidencyState, pages: torch.Tensor, slots: torch.Tensor, generations: torch.Tensor,
    wasted: torch.Tensor | None,
) -> torch.Tensor:  # fmt: skip
    """Arguments as checked by the public function."""
    visible = torch.empty(pages.shape, dtype=torch.bool, device=pages.device)
    _commit[(triton.cdiv(pages.numel(), BLOCK),)](
        pages, slots, generations, visible.view(torch.uint8), state.tick if wasted is None else wasted, state.slot_of,
        state.page_of, state.state, state.prefetched.view(torch.uint8), state.in_flight.view(torch.uint8),
        state.last_used, state.value_until, state.generation, state.tick, pages.numel(), state.lanes,
        WASTED=wasted is not None, BLOCK=BLOCK, num_warps=4,
    )  # fmt: skip
    return visible


def begin_ahead(
    state: ResidencyState, pages: torch.Tensor, ahead: Ahead, count: torch.Tensor, keep: int, why: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Arguments as checked by the public function."""
    begun, slots = torch.empty_like(pages), torch.empty_like(pages)
    _begin_ahead[(COUNTING,)](
        pages, ahead.wanted, ahead.most, ahead.room, ahead.frame_of, begun, slots, count, state.slot_of, state.page_of,
        state.state, state.prefetched.view(torch.uint8), state.ring, state.in_ring.view(torch.uint8), state.ring_head,
        state.ring_tail, state.evicted, state.evicted_count, state.in_flight.view(torch.uint8), ahead.cause,
        state.scratch, pages.numel(), state.slot_of.numel(), state.slots, keep, WHY=why, BLOCK=BLOCK, num_warps=8,
    )  # fmt: skip
    return begun, slots


def commit_ahead(
    state: ResidencyState, pages: torch.Tensor, slots: torch.Tensor, count: torch.Tensor, wasted: torch.Tensor
) -> None:
    """Arguments as checked by the public function."""
    _commit_ahead[(triton.cdiv(pages.numel(), BLOCK),)](
        pages, slots, count, wasted, state.slot_of, state.page_of, state.state, state.prefetched.view(torch.uint8),
        state.in_flight.view(torch.uint8), state.last_used, state.value_until, state.tick, BLOCK=BLOCK, num_warps=4,
    )  # fmt: skip
