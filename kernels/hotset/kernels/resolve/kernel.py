# ruff: noqa: N803 - compile-time parameters are upper case, as everywhere in Triton
# mypy: disable-error-code="import-untyped, no-untyped-def, untyped-decorator"
"""Triton kernel of resolve: one launch, no host in it, so that a captured graph replays it.

    look up    hits are touched and rescued; misses are claimed (slot_of: -1 to -2), once each
    barrier    only programs that claimed something wait, so a layer without misses never does
    take       each claimed page takes the next ring entry that is still RESERVED, and is mapped
    settle     the last program to finish reclaims inline if the ring ran dry, and resets the counters
    follow     positions whose page another one claimed wait for its slot

A page is pending while slot_of is -2. All programs are resident at once (at most 128, one block each),
so that waiting for another one ends.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from hotset.kernels.dispatch import interpreted, next_power_of_two
from hotset.kernels.resolve.reference import Resolved
from hotset.kernels.state import SCRATCH_FAILED, ResidencyState
from hotset.kernels.victims import (
    BINS,
    HISTOGRAMS,
    LIVE,
    NEVER,
    PASSES,
    RESERVED,
    arrive,
    choose,
    narrow,
    rank_slots,
    reserve_chosen,
    wait,
)

PROGRAMS = 128
BLOCK = 256
LOOKED_UP = tl.constexpr(0)
TAKEN = tl.constexpr(1)
MISSES = tl.constexpr(2)
TIES = tl.constexpr(3)
DRY = tl.constexpr(4)
FAILED = tl.constexpr(SCRATCH_FAILED)
PENDING = tl.constexpr(-2)


@triton.jit
def _map(page, slot, put, slot_of, page_of, kind, last_used, prefetched, value_until, evicted, evicted_count, slots, tick):
    """Give `slot` to `page` where `put`, and log the page that loses it."""
    old = tl.load(page_of + slot, mask=put, other=-1)
    lost = old >= 0
    count = tl.sum(lost.to(tl.int32))
    if count > 0:
        tl.store(slot_of + old, -1, mask=lost)
        first = tl.atomic_add(evicted_count, count, sem="relaxed")
        where = first + tl.cumsum(lost.to(tl.int32), 0) - 1
        tl.store(evicted + where, old, mask=lost & (where < slots))
    tl.store(page_of + slot, page, mask=put)
    tl.store(kind + slot, LIVE, mask=put)
    tl.store(last_used + slot, tick, mask=put)
    tl.store(prefetched + slot, 0, mask=put)
    tl.store(value_until + slot, NEVER, mask=put)
    # Last: whoever waits for this page goes on from here.
    tl.debug_barrier()
    tl.atomic_xchg(slot_of + page, slot, mask=put, sem="relaxed")


@triton.jit
def _reclaim_inline(wanted, slots, page_of, kind, last_used, value, value_until, ema, ring, in_ring, ring_tail, keys, scratch, tick, step_tick, ticks_per_step, LRU: tl.constexpr):
    """Reserve the `wanted` worst slots by this program alone; return how many there were."""
    rank_slots(slots, page_of, kind, last_used, value, value_until, ema, tick, step_tick, ticks_per_step, keys, scratch, 0, 1, LRU, True, BINS)
    tl.debug_barrier()
    least = tl.zeros([], tl.int64)
    for step in tl.static_range(PASSES):
        if step > 0:
            narrow(keys, scratch, slots, least, 0, 1, step, BINS)
            tl.debug_barrier()
        least, wanted = choose(scratch, least, wanted, step)
    done = reserve_chosen(keys, kind, ring, in_ring, ring_tail, scratch + TIES, slots, least, wanted, 0, 1, BINS)
    tl.debug_barrier()
    for step in tl.static_range(PASSES):
        tl.store(scratch + HISTOGRAMS + step * BINS + tl.arange(0, BINS), 0)
    tl.store(scratch + TIES, 0)
    return done


@triton.jit
def _settle(miss_pages, miss_slots, dry, misses, slot_of, page_of, kind, last_used, prefetched, value, value_until, ema, ring, in_ring, ring_head, ring_tail, evicted, evicted_count, keys, scratch, slots, tick, step_tick, ticks_per_step, LRU: tl.constexpr, BLOCK: tl.constexpr):
    """The ring ran dry with `dry` pages unserved: reclaim as many slots and map them."""
    # Takes went past the end; every entry of the ring is used up.
    tail = tl.load(ring_tail)
    tl.store(ring_head, tail)
    tl.debug_barrier()
    got = _reclaim_inline(dry, slots, page_of, kind, last_used, value, value_until, ema, ring, in_ring, ring_tail, keys, scratch, tick, step_tick, ticks_per_step, LRU)
    tl.debug_barrier()
    served = tl.zeros([], tl.int32)
    start = 0
    while start < misses:
        j = start + tl.arange(0, BLOCK)
        page = tl.load(miss_pages + j, mask=j < misses, other=-1)
        open_ = (j < misses) & (tl.load(miss_slots + j, mask=j < misses, other=0) < 0)
        rank = served + tl.cumsum(open_.to(tl.int32), 0) - 1
        put = open_ & (rank < got)
        slot = tl.load(ring + (tail + rank) % slots, mask=put, other=0)
        tl.store(in_ring + slot, 0, mask=put)
        tl.store(miss_slots + j, slot, mask=put)
        _map(page, slot, put, slot_of, page_of, kind, last_used, prefetched, value_until, evicted, evicted_count, slots, tick)
        tl.atomic_xchg(slot_of + page, -1, mask=open_ & ~put, sem="relaxed")
        served += tl.sum(open_.to(tl.int32))
        start += BLOCK
    tl.store(ring_head, tail + got)
    if got < dry:
        tl.atomic_add(scratch + FAILED, dry - got)


@triton.jit(do_not_specialize=["total", "slots"])
def _resolve(
    pages, out_slots, out_hit, out_prefetched, miss_pages, miss_slots, miss_count,
    slot_of, page_of, kind, last_used, prefetched, value, value_until, ema,
    ring, in_ring, ring_head, ring_tail, evicted, evicted_count, tick_at, step_tick_at, keys, scratch,
    total, slots, ticks_per_step,
    LRU: tl.constexpr, ADVANCE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    n = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    programs = tl.num_programs(0)
    tick = tl.load(tick_at) + ADVANCE
    page = tl.load(pages + n, mask=n < total, other=-1)
    asked = page >= 0
    slot = tl.load(slot_of + page, mask=asked, other=-1)
    hit = slot >= 0
    missed = asked & ~hit
    reserved = tl.load(kind + slot, mask=hit, other=0) == RESERVED
    fetched = tl.load(prefetched + slot, mask=hit, other=0) != 0
    tl.store(last_used + slot, tick, mask=hit)
    tl.store(value_until + slot, NEVER, mask=hit)
    tl.store(kind + slot, LIVE, mask=reserved)
    tl.store(out_hit + n, hit, mask=n < total)
    tl.store(out_prefetched + n, fetched, mask=n < total)
    tl.store(out_slots + n, slot, mask=(n < total) & ~missed)

    claimed = tl.zeros([BLOCK], tl.int1)
    claims = tl.zeros([], tl.int32)
    misses = tl.sum(missed.to(tl.int32))
    if misses > 0:
        claimed = missed & (tl.atomic_xchg(slot_of + page, PENDING, mask=missed, sem="relaxed") == -1)
        claims = tl.sum(claimed.to(tl.int32))
    first_miss = tl.zeros([], tl.int32)
    if claims > 0:
        first_miss = tl.atomic_add(scratch + MISSES, claims, sem="relaxed")
    arrive(scratch + LOOKED_UP)

    if (claims > 0) | (tl.sum(fetched.to(tl.int32)) > 0):
        wait(scratch + LOOKED_UP, programs)
        # Not before the barrier: another position of the same page must see the flag too.
        tl.store(prefetched + slot, 0, mask=fetched)
    if claims > 0:
        j = first_miss + tl.cumsum(claimed.to(tl.int32), 0) - 1
        tail = tl.load(ring_tail)
        need = claimed
        taken = tl.full([BLOCK], -1, tl.int32)
        wanted = claims
        while wanted > 0:
            head = tl.atomic_add(ring_head, wanted.to(tl.int64), sem="relaxed")
            where = head + tl.cumsum(need.to(tl.int32), 0) - 1
            within = need & (where < tail)
            entry = tl.load(ring + where % slots, mask=within, other=0)
            tl.store(in_ring + entry, 0, mask=within)
            good = within & (tl.load(kind + entry, mask=within, other=0) == RESERVED)
            taken = tl.where(good, entry, taken)
            # Rescued entries are skipped; past the tail the ring is dry.
            need = within & ~good
            wanted = tl.sum(need.to(tl.int32))
        got = claimed & (taken >= 0)
        tl.store(miss_pages + j, page, mask=claimed)
        tl.store(miss_slots + j, taken, mask=claimed)
        tl.store(out_slots + n, taken, mask=got)
        _map(page, taken, got, slot_of, page_of, kind, last_used, prefetched, value_until, evicted, evicted_count, slots, tick)
        unserved = claims - tl.sum(got.to(tl.int32))
        if unserved > 0:
            tl.atomic_add(scratch + DRY, unserved, sem="relaxed")
        claimed = got

    if arrive(scratch + TAKEN) == programs - 1:
        misses = tl.load(scratch + MISSES, volatile=True)
        dry = tl.load(scratch + DRY, volatile=True)
        if dry > 0:
            step_tick = tl.load(step_tick_at)
            _settle(miss_pages, miss_slots, dry, misses, slot_of, page_of, kind, last_used, prefetched, value, value_until, ema, ring, in_ring, ring_head, ring_tail, evicted, evicted_count, keys, scratch, slots, tick, step_tick, ticks_per_step, LRU, BLOCK)
        tl.store(miss_count, misses)
        tl.store(tick_at, tick)
        counters = tl.arange(0, 8)
        tl.store(scratch + counters, 0)
        tl.debug_barrier()

    pending = missed & ~claimed
    while tl.sum(pending.to(tl.int32)) > 0:
        slot = tl.load(slot_of + page, mask=pending, other=PENDING, volatile=True)
        tl.store(out_slots + n, slot, mask=pending & (slot != PENDING))
        pending = pending & (slot == PENDING)


def launch(state: ResidencyState, pages: torch.Tensor, policy: str, advance: bool) -> Resolved:
    """Arguments as checked by the public function."""
    total, device = pages.numel(), pages.device
    slots, miss_pages, miss_slots = (torch.empty(total, dtype=torch.int32, device=device) for _ in range(3))
    hit, prefetched = (torch.empty(total, dtype=torch.bool, device=device) for _ in range(2))
    miss_count = torch.empty(1, dtype=torch.int32, device=device)
    block = next_power_of_two(total) if interpreted() else max(BLOCK, next_power_of_two(triton.cdiv(total, PROGRAMS)))
    _resolve[(triton.cdiv(total, block),)](
        pages, slots, hit.view(torch.uint8), prefetched.view(torch.uint8), miss_pages, miss_slots, miss_count,
        state.slot_of, state.page_of, state.state, state.last_used, state.prefetched.view(torch.uint8),
        state.value, state.value_until, state.ema, state.ring, state.in_ring.view(torch.uint8),
        state.ring_head, state.ring_tail, state.evicted, state.evicted_count, state.tick, state.step_tick,
        state.keys, state.scratch, total, state.slots, float(state.ticks_per_step),
        LRU=policy == "lru", ADVANCE=int(advance), BLOCK=block, num_warps=min(32, max(4, block // 32)),
    )  # fmt: skip
    return Resolved(slots, hit, prefetched, miss_pages, miss_slots, miss_count)
