# ruff: noqa: N803 - compile-time parameters are upper case, as everywhere in Triton
# mypy: disable-error-code="import-untyped, no-untyped-def, untyped-decorator"
"""Triton parts that the residency kernels share: a barrier over the grid, and the choice of the worst slots.

The worst slots are found by radix selection over 63-bit keys, 8 bits a pass: a histogram of one digit among
the keys that agree with the digits so far, then the digit in which the wanted rank falls. A key is the class
of the slot (FREE before unused in this step before used by an earlier layer) above the value's ordered bits.
"""

from __future__ import annotations

import triton
import triton.language as tl

from hotset.kernels.state import FREE as _FREE
from hotset.kernels.state import LIVE as _LIVE
from hotset.kernels.state import RESERVED as _RESERVED
from hotset.kernels.state import SCRATCH_HISTOGRAMS as _HISTOGRAMS

FREE = tl.constexpr(_FREE)
LIVE = tl.constexpr(_LIVE)
RESERVED = tl.constexpr(_RESERVED)
HISTOGRAMS = tl.constexpr(_HISTOGRAMS)
BINS = tl.constexpr(256)
PASSES = tl.constexpr(8)
NEVER = tl.constexpr(-(1 << 30))


@triton.jit
def arrive(counter):
    """Publish this program's writes and count it in; return how many came before it."""
    tl.debug_barrier()
    ticket = tl.atomic_add(counter, 1, sem="acq_rel")
    tl.debug_barrier()
    return ticket


@triton.jit
def wait(counter, programs):
    """Wait until `programs` have arrived; their writes are visible from here on."""
    while tl.atomic_add(counter, 0, sem="acquire") < programs:
        pass
    tl.debug_barrier()


@triton.jit
def _key(
    i,
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
    LRU: tl.constexpr,
    INLINE: tl.constexpr,
):
    """63-bit keys of slots `i`, larger is colder; 0 for what must not be taken."""
    inside = i < slots
    state = tl.load(kind + i, mask=inside, other=255)
    used = tl.load(last_used + i, mask=inside, other=0)
    until = tl.load(value_until + i, mask=inside, other=0)
    planned = tl.load(value + i, mask=inside, other=0.0).to(tl.float64)
    age = (tick.to(tl.int64) - used.to(tl.int64)).to(tl.float64) / ticks_per_step
    if LRU:
        builtin = tl.log2(1.0 + age)
    else:
        page = tl.load(page_of + i, mask=inside, other=-1)
        mass = tl.load(ema + tl.maximum(page, 0), mask=inside, other=0.0).to(tl.float64)
        builtin = (255.0 - mass) / 8.0
    # The factor is 2**-40: age only breaks ties.
    cold = tl.where(until >= tick, planned, builtin) + age * 9.094947017729282e-13
    bits = cold.to(tl.int64, bitcast=True)
    # Order the bits as the floats are ordered, then make room for the class above them.
    bits = tl.where(bits < 0, ~bits, bits | (-0x7FFFFFFFFFFFFFFF - 1))
    ordered = (bits >> 3) & 0x1FFFFFFFFFFFFFFF
    live = state == LIVE
    rank = tl.where(live & (used < step_tick), 2, 0)
    if INLINE:
        rank = tl.where(live & (used >= step_tick) & (used < tick), 1, rank)
    rank = tl.where(state == FREE, 3, rank).to(tl.int64)
    return tl.where(rank > 0, (rank << 61) | ordered, 0)


@triton.jit
def _digit(keys, PASS: tl.constexpr):
    """The digit of pass PASS, from the top."""
    return ((keys >> (56 - 8 * PASS)) & 0xFF).to(tl.int32)


@triton.jit
def rank_slots(
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
    program,
    programs,
    LRU: tl.constexpr,
    INLINE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Write this program's share of `keys` and count their first digits."""
    start = program * BLOCK
    while start < slots:
        i = start + tl.arange(0, BLOCK)
        key = _key(
            i, slots, page_of, kind, last_used, value, value_until, ema, tick, step_tick, ticks_per_step, LRU, INLINE
        )
        tl.store(keys + i, key, mask=i < slots)
        counts = tl.histogram(_digit(key, 0), BINS, mask=key > 0)
        bins = tl.arange(0, BINS)
        tl.atomic_add(scratch + HISTOGRAMS + bins, counts, mask=counts > 0, sem="relaxed")
        start += programs * BLOCK


@triton.jit
def count_reserved(kind, slots, program, programs, BLOCK: tl.constexpr):
    """RESERVED slots of this program's share."""
    level = tl.zeros([], tl.int32)
    start = program * BLOCK
    while start < slots:
        i = start + tl.arange(0, BLOCK)
        state = tl.load(kind + i, mask=i < slots, other=255)
        level += tl.sum((state == RESERVED).to(tl.int32))
        start += programs * BLOCK
    return level


@triton.jit
def narrow(keys, scratch, slots, prefix, program, programs, PASS: tl.constexpr, BLOCK: tl.constexpr):
    """Count digit PASS of this program's share of the keys that begin with `prefix`."""
    bins = tl.arange(0, BINS)
    start = program * BLOCK
    while start < slots:
        i = start + tl.arange(0, BLOCK)
        key = tl.load(keys + i, mask=i < slots, other=0)
        counts = tl.histogram(_digit(key, PASS), BINS, mask=(key > 0) & ((key >> (64 - 8 * PASS)) == prefix))
        tl.atomic_add(scratch + HISTOGRAMS + PASS * BINS + bins, counts, mask=counts > 0, sem="relaxed")
        start += programs * BLOCK


@triton.jit
def choose(scratch, prefix, wanted, PASS: tl.constexpr):
    """Where the `wanted`-th largest key lies: (prefix with digit PASS, wanted among the keys with that prefix)."""
    bins = tl.arange(0, BINS)
    # A volatile load, since other programs wrote the counts in this launch.
    counts = tl.load(scratch + HISTOGRAMS + PASS * BINS + bins, volatile=True)
    at_least = tl.cumsum(counts, 0, reverse=True)
    wanted = tl.minimum(wanted, tl.max(at_least))
    digit = tl.maximum(tl.sum((at_least >= wanted).to(tl.int32)) - 1, 0)
    wanted -= tl.sum(tl.where(bins > digit, counts, 0))
    return (prefix << 8) | digit, wanted


@triton.jit
def first_pass(scratch, wanted):
    """`choose` of pass 0, before which there is no prefix."""
    return choose(scratch, tl.zeros([], tl.int64), wanted, 0)


@triton.jit
def clear_histograms(scratch):
    """Leave the histograms as every launch expects them."""
    tl.store(scratch + HISTOGRAMS + tl.arange(0, BINS * PASSES), 0)


@triton.jit
def reserve_chosen(
    keys, kind, ring, in_ring, ring_tail, ties, slots, least, wanted, program, programs, BLOCK: tl.constexpr
):
    """Reserve this program's share of the keys above `least`, and `wanted` of all that equal it; return how many."""
    done = tl.zeros([], tl.int32)
    start = program * BLOCK
    while start < slots:
        i = start + tl.arange(0, BLOCK)
        key = tl.load(keys + i, mask=i < slots, other=0)
        tied = (key == least) & (key > 0)
        tie = tl.cumsum(tied.to(tl.int32), 0)
        before = tl.zeros([], tl.int32)
        if tl.sum(tied.to(tl.int32)) > 0:
            before = tl.atomic_add(ties, tl.sum(tied.to(tl.int32)), sem="relaxed")
        # A key of 0 is never taken, also not where no key is larger and `least` means nothing.
        taken = (key > 0) & ((key > least) | (tied & (before + tie <= wanted)))
        tl.store(kind + i, RESERVED, mask=taken)
        fresh = taken & (tl.load(in_ring + i, mask=taken, other=0) == 0)
        count = tl.sum(fresh.to(tl.int32))
        if count > 0:
            tail = tl.atomic_add(ring_tail, count.to(tl.int64), sem="relaxed")
            where = (tail + tl.cumsum(fresh.to(tl.int32), 0) - 1) % slots
            tl.store(ring + where, i, mask=fresh)
            tl.store(in_ring + i, 1, mask=fresh)
        done += tl.sum(taken.to(tl.int32))
        start += programs * BLOCK
    return done
