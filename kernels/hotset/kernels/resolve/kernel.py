# ruff: noqa: N803 - compile-time parameters are upper case, as everywhere in Triton
# mypy: disable-error-code="import-untyped, no-untyped-def, untyped-decorator"
"""Triton kernel of resolve: one launch, no host in it, so that a captured graph replays it.

    look up    hits are touched and rescued; misses are claimed (slot_of: -1 to -2), once each
    barrier    only programs that claimed something wait, so a layer without misses never does
    take       the j-th claimed page takes the j-th ring entry, or a later one if that was rescued
    settle     if the ring ran dry, one program reclaims inline for all
    follow     positions whose page another one claimed wait for its slot

A page is pending while slot_of is -2. All programs are resident at once (at most 128, one block each),
so that waiting for another one ends. Counters stand in two sets that launches use in turn: the last program
to reach the barrier clears the set of the next launch.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents

from hotset.kernels.dispatch import dependent_launch, interpreted, next_power_of_two
from hotset.kernels.resolve.reference import Resolved
from hotset.kernels.state import SCRATCH_FAILED, ResidencyState
from hotset.kernels.victims import (
    LIVE,
    NEVER,
    RESERVED,
    choose,
    clear_histograms,
    first_pass,
    narrow,
    rank_slots,
    reserve_chosen,
)

PROGRAMS = 128
# Few positions a program: what it costs is the way of one warp through the steps, not the work.
BLOCK = 128
# Words of a set of counters; the first two are one 64-bit word: misses, claiming programs, programs arrived.
SET = tl.constexpr(8)
TAKEN = tl.constexpr(2)
EXTRA = tl.constexpr(3)
DRY = tl.constexpr(4)
TIES = tl.constexpr(5)
LAUNCHES = tl.constexpr(16)
FAILED = tl.constexpr(SCRATCH_FAILED)
RECLAIM_BLOCK = tl.constexpr(2048)
PENDING = tl.constexpr(-2)


@triton.jit
def _map(page, slot, put, slot_of, page_of, kind, last_used, prefetched, value_until, use):
    """Give `slot` to `page` where `put`; return the pages that lose it, or -1."""
    old = tl.load(page_of + slot, mask=put, other=-1)
    tl.store(slot_of + page, slot, mask=put)
    tl.store(slot_of + old, -1, mask=old >= 0)
    tl.store(page_of + slot, page, mask=put)
    tl.store(kind + slot, LIVE, mask=put)
    tl.store(last_used + slot, use, mask=put)
    tl.store(prefetched + slot, 0, mask=put)
    tl.store(value_until + slot, NEVER, mask=put)
    return old


@triton.jit
def _reclaim_inline(
    wanted,
    slots,
    page_of,
    kind,
    last_used,
    value,
    value_until,
    ema,
    ring,
    in_ring,
    ring_tail,
    keys,
    scratch,
    ties,
    tick,
    step_tick,
    ticks_per_step,
    LRU: tl.constexpr,
):
    """Reserve the `wanted` worst slots by this program alone; return how many there were."""
    rank_slots(
        slots,
        page_of,
        kind,
        last_used,
        value,
        value_until,
        ema,
        tick,
        step_tick,
        ticks_per_step,
        keys,
        scratch,
        0,
        1,
        LRU,
        True,
        RECLAIM_BLOCK,
    )
    tl.debug_barrier()
    least, wanted = first_pass(scratch, wanted)
    for step in tl.static_range(1, 8):
        narrow(keys, scratch, slots, least, 0, 1, step, RECLAIM_BLOCK)
        tl.debug_barrier()
        least, wanted = choose(scratch, least, wanted, step)
    done = reserve_chosen(keys, kind, ring, in_ring, ring_tail, ties, slots, least, wanted, 0, 1, RECLAIM_BLOCK)
    tl.debug_barrier()
    clear_histograms(scratch)
    return done


@triton.jit
def _settle(
    miss_pages,
    miss_slots,
    dry,
    misses,
    slot_of,
    page_of,
    kind,
    last_used,
    prefetched,
    value,
    value_until,
    ema,
    ring,
    in_ring,
    ring_head,
    ring_tail,
    evicted,
    first_evicted,
    keys,
    scratch,
    ties,
    slots,
    tick,
    step_tick,
    use,
    ticks_per_step,
    LRU: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """The ring ran dry with `dry` pages unserved: reclaim as many slots and map them."""
    tail = tl.load(ring_tail)
    got = _reclaim_inline(
        dry,
        slots,
        page_of,
        kind,
        last_used,
        value,
        value_until,
        ema,
        ring,
        in_ring,
        ring_tail,
        keys,
        scratch,
        ties,
        tick,
        step_tick,
        ticks_per_step,
        LRU,
    )
    tl.debug_barrier()
    served = tl.zeros([], tl.int32)
    start = 0
    while start < misses:
        j = start + tl.arange(0, BLOCK)
        page = tl.load(miss_pages + j, mask=j < misses, other=-1)
        unserved = (j < misses) & (tl.load(miss_slots + j, mask=j < misses, other=0) < 0)
        rank = served + tl.cumsum(unserved.to(tl.int32), 0) - 1
        put = unserved & (rank < got)
        slot = tl.load(ring + (tail + rank) % slots, mask=put, other=0)
        tl.store(in_ring + slot, 0, mask=put)
        tl.store(miss_slots + j, slot, mask=put)
        old = _map(page, slot, put, slot_of, page_of, kind, last_used, prefetched, value_until, use)
        tl.store(evicted + first_evicted + j, old, mask=unserved & (first_evicted + j < slots))
        tl.store(slot_of + page, -1, mask=unserved & ~put)
        served += tl.sum(unserved.to(tl.int32))
        start += BLOCK
    tl.store(ring_head, tail + got)
    if got < dry:
        tl.atomic_add(scratch + FAILED, dry - got)


@triton.jit(do_not_specialize=["total", "slots"])
def _resolve(
    pages, out_slots, out_hit, out_prefetched, miss_pages, miss_slots, miss_count,
    slot_of, page_of, kind, last_used, prefetched, value, value_until, ema,
    ring, in_ring, ring_head, ring_tail, evicted, evicted_count, tick_at, step_tick_at, keys, scratch, wide_scratch,
    total, slots, ticks_per_step,
    LRU: tl.constexpr, ADVANCE: tl.constexpr, BLOCK: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    if EARLY:
        # swap_in may take its place now; it waits there for this launch to end.
        gdc_launch_dependents()
    n = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    programs = tl.num_programs(0)
    page = tl.load(pages + n, mask=n < total, other=-1)
    tick = tl.load(tick_at) + ADVANCE
    step_tick = tl.load(step_tick_at)
    # Between steps `step_tick` is ahead: what is resolved there is of the coming step, and this very call spares it.
    use = tl.maximum(tick, step_tick)
    turn = tl.load(scratch + LAUNCHES)
    head = tl.load(ring_head)
    tail = tl.load(ring_tail)
    first_evicted = tl.load(evicted_count)
    counters = scratch + turn * SET
    asked = page >= 0
    slot = tl.load(slot_of + page, mask=asked, other=-1)
    hit = slot >= 0
    missed = asked & ~hit
    claimed = tl.zeros([BLOCK], tl.int1)
    claims = tl.zeros([], tl.int32)
    if tl.sum(missed.to(tl.int32)) > 0:
        claimed = missed & (tl.atomic_xchg(slot_of + page, PENDING, mask=missed, sem="relaxed") == -1)
        claims = tl.sum(claimed.to(tl.int32))
    reserved = tl.load(kind + slot, mask=hit, other=0) == RESERVED
    fetched = tl.load(prefetched + slot, mask=hit, other=0) != 0
    tl.store(kind + slot, LIVE, mask=reserved)
    tl.store(last_used + slot, use, mask=hit)
    tl.store(value_until + slot, NEVER, mask=hit)
    tl.store(out_hit + n, hit, mask=n < total)
    tl.store(out_prefetched + n, fetched, mask=n < total)
    tl.store(out_slots + n, slot, mask=(n < total) & ~missed)

    arrival = (claims.to(tl.int64) << 32) | ((claims > 0).to(tl.int64) << 16) | 1
    tl.debug_barrier()
    before = tl.atomic_add(wide_scratch + turn * (SET // 2), arrival, sem="acq_rel")
    first = (before >> 32).to(tl.int32)
    if (before & 0xFFFF) == programs - 1:
        misses = first + claims
        tl.store(miss_count, misses)
        tl.store(evicted_count, first_evicted + misses)
        tl.store(tick_at, tick)
        tl.store(scratch + (1 - turn) * SET + tl.arange(0, SET), 0)
        tl.store(scratch + LAUNCHES, 1 - turn)

    if (claims > 0) | (tl.sum(fetched.to(tl.int32)) > 0):
        arrived = tl.atomic_add(wide_scratch + turn * (SET // 2), 0, sem="acquire")
        while (arrived & 0xFFFF) < programs:
            arrived = tl.atomic_add(wide_scratch + turn * (SET // 2), 0, sem="acquire")
        tl.debug_barrier()
        # Not before the barrier: another position of the same page must see the flag too.
        tl.store(prefetched + slot, 0, mask=fetched)
        if claims > 0:
            misses = (arrived >> 32).to(tl.int32)
            rank = tl.cumsum(claimed.to(tl.int32), 0) - 1
            j = first + rank
            need = claimed
            where = head + j
            taken = tl.full([BLOCK], -1, tl.int32)
            reach = head
            wanted = claims
            while wanted > 0:
                within = need & (where < tail)
                entry = tl.load(ring + where % slots, mask=within, other=0)
                tl.store(in_ring + entry, 0, mask=within)
                good = within & (tl.load(kind + entry, mask=within, other=0) == RESERVED)
                taken = tl.where(good, entry, taken)
                reach = tl.maximum(reach, tl.max(tl.where(within, where + 1, 0)))
                # Rescued entries are skipped; past the tail the ring is dry.
                need = within & ~good
                wanted = tl.sum(need.to(tl.int32))
                if wanted > 0:
                    extra = tl.atomic_add(counters + EXTRA, wanted, sem="relaxed")
                    where = head + misses + extra + tl.cumsum(need.to(tl.int32), 0) - 1
            got = claimed & (taken >= 0)
            old = _map(page, taken, got, slot_of, page_of, kind, last_used, prefetched, value_until, use)
            tl.store(miss_pages + j, page, mask=claimed)
            tl.store(miss_slots + j, taken, mask=claimed)
            tl.store(out_slots + n, taken, mask=got)
            tl.store(evicted + first_evicted + j, old, mask=got & (first_evicted + j < slots))
            tl.atomic_max(ring_head, reach, sem="relaxed")
            unserved = claims - tl.sum(got.to(tl.int32))
            settles = False
            if unserved > 0:
                settles = tl.atomic_add(counters + DRY, unserved, sem="relaxed") == 0
            tl.debug_barrier()
            tl.atomic_add(counters + TAKEN, 1, sem="release")
            if settles:
                while tl.atomic_add(counters + TAKEN, 0, sem="acquire") < ((arrived >> 16) & 0xFFFF).to(tl.int32):
                    pass
                tl.debug_barrier()
                dry = tl.load(counters + DRY, volatile=True)
                _settle(
                    miss_pages,
                    miss_slots,
                    dry,
                    misses,
                    slot_of,
                    page_of,
                    kind,
                    last_used,
                    prefetched,
                    value,
                    value_until,
                    ema,
                    ring,
                    in_ring,
                    ring_head,
                    ring_tail,
                    evicted,
                    first_evicted,
                    keys,
                    scratch,
                    counters + TIES,
                    slots,
                    tick,
                    step_tick,
                    use,
                    ticks_per_step,
                    LRU,
                    BLOCK,
                )
                tl.debug_barrier()
            claimed = got

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
        state.keys, state.scratch, state.scratch.view(torch.int64), total, state.slots, float(state.ticks_per_step),
        LRU=policy == "lru", ADVANCE=int(advance), BLOCK=block, EARLY=dependent_launch(pages),
        num_warps=min(32, max(4, block // 32)),
    )  # fmt: skip
    return Resolved(slots, hit, prefetched, miss_pages, miss_slots, miss_count)
