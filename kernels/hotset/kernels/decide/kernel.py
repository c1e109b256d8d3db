# ruff: noqa: N803 - compile-time parameters are upper case, as everywhere in Triton
# mypy: disable-error-code="import-untyped, no-untyped-def, untyped-decorator"
"""Triton kernels of decide: a candidate a thread, and a program a lane where lists are joined."""

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
BLOCK = 256


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


@triton.jit(do_not_specialize=["total", "page_count"])
def _weigh(pages, probability, least, slot_of, key, value, total, page_count, BLOCK: tl.constexpr):
    n = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    page = tl.load(pages + n, mask=n < total, other=-1)
    sure = tl.load(probability + n, mask=n < total, other=0.0)
    inside = (page >= 0) & (page < page_count)
    slot = tl.load(slot_of + page, mask=inside, other=-1)
    wanted = inside & (slot < 0) & (sure > tl.load(least))
    guarded = inside & (slot >= 0) & (sure >= PROTECTED)
    tl.store(key + n, tl.where(wanted, sure, -1.0), mask=n < total)
    tl.store(value + n, tl.where(guarded, UNUSED - (UNUSED - USED) * sure, float("nan")), mask=n < total)


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


def weigh(
    state: ResidencyState, pages: torch.Tensor, probability: torch.Tensor, least: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Arguments as checked by the public function."""
    key, value = torch.empty_like(probability), torch.empty_like(probability)
    _weigh[(triton.cdiv(pages.numel(), BLOCK),)](
        pages, probability, least, state.slot_of, key, value, pages.numel(), state.slot_of.numel(),
        BLOCK=BLOCK, num_warps=4,
    )  # fmt: skip
    return key, value


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
