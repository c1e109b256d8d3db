# ruff: noqa: N803 - compile-time parameters are upper case, as everywhere in Triton
# mypy: disable-error-code="import-untyped, no-untyped-def, untyped-decorator"
"""Triton kernels of tally: one launch a step for all its layers, and one over all slots."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from hotset.kernels.state import FILLING as _FILLING
from hotset.kernels.state import ResidencyState
from hotset.kernels.tally.reference import NOBODY as _NOBODY

FILLING, NOBODY = tl.constexpr(_FILLING), tl.constexpr(_NOBODY)
BLOCK = 1024


@triton.jit(do_not_specialize=["n"])
def _count_uses(slots, prefetched, cause, used, n, by_cause, by_layer, CAUSES: tl.constexpr, BLOCK: tl.constexpr):
    layer = tl.program_id(0)
    i = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    place = layer.to(tl.int64) * n + i
    first = tl.load(prefetched + place, mask=i < n, other=0) != 0
    slot = tl.load(slots + place, mask=first, other=-1)
    first = first & (slot >= 0)
    if tl.sum(first.to(tl.int32)) > 0:
        # Whoever takes the cause out counts; where a slot is named again, nobody is left.
        why = tl.atomic_xchg(cause + slot, NOBODY, mask=first, sem="relaxed")
        for one in tl.static_range(CAUSES):
            count = tl.sum((first & (why == one)).to(tl.int64))
            tl.atomic_add(used + one * by_cause + layer * by_layer, count, mask=count > 0, sem="relaxed")


@triton.jit(do_not_specialize=["slots"])
def _count_unused(
    page_of, kind, prefetched, cause, left, slots, by_cause, by_layer, lanes, HEADS: tl.constexpr, BLOCK: tl.constexpr
):
    slot = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = slot < slots
    flying = tl.load(kind + slot, mask=inside, other=0) == FILLING
    there = flying | (tl.load(prefetched + slot, mask=inside, other=0) != 0)
    why = tl.load(cause + slot, mask=there, other=NOBODY)
    there = there & (why != NOBODY)
    layer = tl.load(page_of + slot, mask=there, other=0) % lanes // HEADS
    tl.atomic_add(left + why * by_cause + layer * by_layer, there.to(tl.int64), mask=there, sem="relaxed")


def count_uses(slots: torch.Tensor, prefetched: torch.Tensor, cause: torch.Tensor, used: torch.Tensor) -> None:
    """Arguments as checked by the public function."""
    layers, n = slots.shape
    _count_uses[(layers, triton.cdiv(n, BLOCK))](
        slots, prefetched.view(torch.uint8), cause, used, n, used.stride(0), used.stride(1),
        CAUSES=used.shape[0], BLOCK=BLOCK, num_warps=4,
    )  # fmt: skip


def count_unused(state: ResidencyState, cause: torch.Tensor, left: torch.Tensor) -> None:
    """Arguments as checked by the public function."""
    _count_unused[(triton.cdiv(state.slots, BLOCK),)](
        state.page_of, state.state, state.prefetched.view(torch.uint8), cause, left, state.slots,
        left.stride(0), left.stride(1), state.lanes, HEADS=state.lanes // left.shape[1], BLOCK=BLOCK, num_warps=4,
    )  # fmt: skip
