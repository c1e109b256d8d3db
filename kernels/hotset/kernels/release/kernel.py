# ruff: noqa: N803 - compile-time parameters are upper case, as everywhere in Triton
# mypy: disable-error-code="import-untyped, no-untyped-def, untyped-decorator"
"""Triton kernel of release: a program a group and block of lanes."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from hotset.kernels.state import ResidencyState
from hotset.kernels.victims import FREE

BLOCK = 256


@triton.jit(do_not_specialize=["slots", "lanes"])
def _release(
    groups, slot_of, page_of, kind, prefetched, ema, generation, evicted, evicted_count, slots, lanes,
    BLOCK: tl.constexpr,
):  # fmt: skip
    group = tl.load(groups + tl.program_id(0))
    lane = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    page = (group * lanes + lane).to(tl.int32)
    slot = tl.load(slot_of + page, mask=lane < lanes, other=-1)
    lost = slot >= 0
    first = tl.atomic_add(evicted_count, tl.sum(lost.to(tl.int32)), sem="relaxed")
    at = first + tl.cumsum(lost.to(tl.int32), 0) - 1
    tl.store(evicted + at, page, mask=lost & (at < slots))
    tl.store(slot_of + page, -1, mask=lost)
    tl.store(page_of + slot, -1, mask=lost)
    tl.store(prefetched + slot, 0, mask=lost)
    tl.store(kind + slot, FREE, mask=lost)
    tl.store(ema + page, 0.0, mask=lane < lanes)
    if tl.program_id(1) == 0:
        tl.atomic_add(generation + group, 1, sem="relaxed")


def launch(state: ResidencyState, groups: torch.Tensor) -> None:
    """Arguments as checked by the public function."""
    _release[(groups.numel(), triton.cdiv(state.lanes, BLOCK))](
        groups, state.slot_of, state.page_of, state.state, state.prefetched.view(torch.uint8), state.ema,
        state.generation, state.evicted, state.evicted_count, state.slots, state.lanes, BLOCK=BLOCK, num_warps=4,
    )  # fmt: skip
