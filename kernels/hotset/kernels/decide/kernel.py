# ruff: noqa: N803 - compile-time parameters are upper case, as everywhere in Triton
# mypy: disable-error-code="import-untyped, no-untyped-def, untyped-decorator"
"""Triton kernels of decide: a candidate a thread, and a program a lane where lists are joined.

What is wanted is a small part of the candidates: it is gathered in any order first, then every key counts those that
are larger, which is the whole sort.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from hotset.kernels.dispatch import next_power_of_two
from hotset.kernels.state import FILLING as _FILLING
from hotset.kernels.state import LIVE as _LIVE
from hotset.kernels.state import RESERVED as _RESERVED
from hotset.kernels.state import ResidencyState
from hotset.protos import lookahead as spec

FILLING, PROTECTED = tl.constexpr(_FILLING), tl.constexpr(spec.PROTECTED)
LIVE, RESERVED = tl.constexpr(_LIVE), tl.constexpr(_RESERVED)
UNUSED, USED = tl.constexpr(spec.VALUE_UNUSED), tl.constexpr(spec.VALUE_USED)
CHUNK = tl.constexpr(32)
# A key is the bits of a probability, then this minus the candidate's place: of two equal ones the earlier is larger.
LAST = tl.constexpr((1 << 31) - 1)
BLOCK = 256
ORDERED = 64


@triton.jit
def _join(ranked, recent, joined, R: tl.constexpr, N: tl.constexpr, BLOCK: tl.constexpr, CHUNKS: tl.constexpr):
    lane = tl.program_id(0).to(tl.int64)
    i = tl.arange(0, BLOCK)
    page = tl.load(recent + lane * N + i, mask=i < N, other=-1)
    again = tl.zeros([BLOCK], tl.int32)
    for chunk in tl.static_range(CHUNKS):
        j = chunk * CHUNK + tl.arange(0, CHUNK)
        rank = tl.load(ranked + lane * R + j, mask=j < R, other=-1)
        again += tl.sum((page[:, None] == rank[None, :]).to(tl.int32), 1)
        tl.store(joined + lane * (R + N) + j, rank, mask=j < R)
    tl.store(joined + lane * (R + N) + R + i, tl.where(again > 0, -1, page), mask=i < N)


@triton.jit(do_not_specialize=["total", "page_count", "ticks", "each"])
def _weigh(
    pages, probability, least, unknown, slot_of, kind, worth, worth_until, tick, keys, count, value,
    total, page_count, ticks, each, KNOWN: tl.constexpr, PROTECT: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    n = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    page = tl.load(pages + n, mask=n < total, other=-1)
    sure = tl.load(probability + n, mask=n < total, other=0.0)
    if not KNOWN:
        sure = tl.where(tl.load(unknown + n // each, mask=n < total, other=1) > 0, 0.0, sure)
    inside = (page >= 0) & (page < page_count)
    slot = tl.load(slot_of + page, mask=inside, other=-1)
    wanted = inside & (slot < 0) & (sure > tl.load(least))
    guarded = inside & (slot >= 0) & (sure >= PROTECTED)
    now = UNUSED - (UNUSED - USED) * sure
    tl.store(value + n, tl.where(guarded, now, float("nan")), mask=n < total)
    if PROTECT:
        # A page that is there is in no flight, and two entries of one page write its state alike.
        tl.store(worth + slot, now, mask=guarded)
        tl.store(worth_until + slot, tl.load(tick) + ticks, mask=guarded)
        tl.store(kind + slot, LIVE, mask=guarded & (tl.load(kind + slot, mask=guarded, other=0) == RESERVED))
    found = tl.sum(wanted.to(tl.int32))
    if found > 0:
        at = tl.atomic_add(count, found, sem="relaxed") + tl.cumsum(wanted.to(tl.int32), 0) - 1
        tl.store(keys + at, (sure.to(tl.int32, bitcast=True).to(tl.int64) << 32) | (LAST - n), mask=wanted)


@triton.jit
def _order(keys, count, pages, best, limit, BLOCK: tl.constexpr):
    """A key's place in the list is how many keys are larger; where there are none, -1."""
    found = tl.load(count)
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(best + i, -1, mask=(i >= found) & (i < limit))
    if tl.program_id(0) * BLOCK < found:
        key = tl.load(keys + i, mask=i < found, other=0)
        larger = tl.zeros([BLOCK], tl.int32)
        start = 0
        while start < found:
            j = start + tl.arange(0, BLOCK)
            other = tl.load(keys + j, mask=j < found, other=-1)
            larger += tl.sum((other[None, :] > key[:, None]).to(tl.int32), 1)
            start += BLOCK
        page = tl.load(pages + (LAST - (key & LAST)), mask=i < found, other=-1)
        tl.store(best + larger, page, mask=(i < found) & (larger < limit))


@triton.jit(do_not_specialize=["total", "page_count", "ticks"])
def _write(
    pages, values, slot_of, kind, value, value_until, tick, total, page_count, ticks, BLOCK: tl.constexpr
):  # fmt: skip
    n = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    page = tl.load(pages + n, mask=n < total, other=-1)
    new = tl.load(values + n, mask=n < total, other=0.0)
    inside = (page >= 0) & (page < page_count) & (tl.abs(new) < float("inf"))
    slot = tl.load(slot_of + page, mask=inside, other=-1)
    good = slot >= 0
    good = good & (tl.load(kind + slot, mask=good, other=0) != FILLING)
    tl.store(value + slot, new, mask=good)
    tl.store(value_until + slot, tl.load(tick) + ticks, mask=good)


@triton.jit(do_not_specialize=["total", "page_count"])
def _rescue(pages, values, slot_of, kind, total, page_count, BLOCK: tl.constexpr):
    n = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    page = tl.load(pages + n, mask=n < total, other=-1)
    value = tl.load(values + n, mask=n < total, other=0.0)
    inside = (page >= 0) & (page < page_count) & (tl.abs(value) < float("inf"))
    slot = tl.load(slot_of + page, mask=inside, other=-1)
    there = slot >= 0
    # Two entries of one page write the same.
    tl.store(kind + slot, LIVE, mask=there & (tl.load(kind + slot, mask=there, other=0) == RESERVED))


def join_candidates(ranked: torch.Tensor, recent: torch.Tensor) -> torch.Tensor:
    """Arguments as checked by the public function."""
    batch, heads, n = recent.shape
    ranks = ranked.shape[2]
    joined = torch.empty(batch, heads, ranks + n, dtype=torch.int32, device=ranked.device)
    _join[(batch * heads,)](
        ranked, recent, joined, R=ranks, N=n, BLOCK=next_power_of_two(n), CHUNKS=triton.cdiv(ranks, CHUNK.value),
        num_warps=4,
    )  # fmt: skip
    return joined


def decide(
    state: ResidencyState,
    pages: torch.Tensor,
    probability: torch.Tensor,
    least: torch.Tensor,
    limit: int,
    protect: int,
    unknown: torch.Tensor | None,
    count: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Arguments as checked by the public function; the fields of a Decision."""
    total, device = pages.numel(), pages.device
    keys, values = torch.empty(total, dtype=torch.int64, device=device), torch.empty_like(probability)
    best = torch.empty(limit, dtype=torch.int32, device=device)
    _weigh[(triton.cdiv(total, BLOCK),)](
        pages, probability, least, pages if unknown is None else unknown, state.slot_of, state.state, state.value,
        state.value_until, state.tick, keys, count, values, total, state.slot_of.numel(),
        protect * state.ticks_per_step, 1 if unknown is None else total // unknown.numel(),
        KNOWN=unknown is None, PROTECT=protect > 0, BLOCK=BLOCK, num_warps=4,
    )  # fmt: skip
    _order[(triton.cdiv(total, ORDERED),)](keys, count, pages, best, limit, BLOCK=ORDERED, num_warps=4)
    return best, count, values


def write_values(state: ResidencyState, pages: torch.Tensor, values: torch.Tensor, steps: int) -> None:
    """Arguments as checked by the public function."""
    _write[(triton.cdiv(pages.numel(), BLOCK),)](
        pages, values, state.slot_of, state.state, state.value, state.value_until, state.tick, pages.numel(),
        state.slot_of.numel(), steps * state.ticks_per_step, BLOCK=BLOCK, num_warps=4,
    )  # fmt: skip


def rescue(state: ResidencyState, pages: torch.Tensor, values: torch.Tensor) -> None:
    """Arguments as checked by the public function."""
    _rescue[(triton.cdiv(pages.numel(), BLOCK),)](
        pages, values, state.slot_of, state.state, pages.numel(), state.slot_of.numel(), BLOCK=BLOCK, num_warps=4
    )
