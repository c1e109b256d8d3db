# ruff: noqa: N803 - compile-time parameters are upper case, as everywhere in Triton
# mypy: disable-error-code="import-untyped, no-untyped-def, untyped-decorator"
"""Triton kernel of changes: a thread a slot; a program takes the places of what changed in it by one atomic."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from hotset.kernels.state import FREE as _FREE
from hotset.kernels.state import RESERVED as _RESERVED
from hotset.kernels.state import ResidencyState

FREE, RESERVED = tl.constexpr(_FREE), tl.constexpr(_RESERVED)
BLOCK = 1024


@triton.jit(do_not_specialize=["slots", "most"])
def _changes(page_of, slot_of, kind, seen, lost, gained, counts, slots, most, BLOCK: tl.constexpr):
    slot = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = slot < slots
    page = tl.load(page_of + slot, mask=inside, other=-1)
    state = tl.load(kind + slot, mask=inside, other=255)
    before = tl.load(seen + slot, mask=inside, other=-1)
    back = tl.load(slot_of + page, mask=page >= 0, other=-1)
    now = tl.where((page >= 0) & (back == slot), page, -1)
    changed = inside & (now != before)
    count = tl.sum(changed.to(tl.int32))
    if count > 0:
        first = tl.atomic_add(counts, count.to(tl.int64), sem="relaxed")
        place = first + tl.cumsum(changed.to(tl.int32), 0) - 1
        put = changed & (place < most)
        tl.store(lost + place, before, mask=put)
        tl.store(gained + place, now, mask=put)
        tl.store(seen + slot, now, mask=changed)
    reserved = tl.sum((state == RESERVED).to(tl.int64))
    free = tl.sum((state == FREE).to(tl.int64))
    tl.atomic_add(counts + 1, reserved, mask=reserved > 0, sem="relaxed")
    tl.atomic_add(counts + 2, free, mask=free > 0, sem="relaxed")


def launch(
    state: ResidencyState, seen: torch.Tensor, lost: torch.Tensor, gained: torch.Tensor, counts: torch.Tensor
) -> None:
    """Arguments as checked by the public function."""
    counts.zero_()
    _changes[(triton.cdiv(state.slots, BLOCK),)](
        state.page_of, state.slot_of, state.state, seen, lost, gained, counts, state.slots, lost.numel(),
        BLOCK=BLOCK, num_warps=4,
    )  # fmt: skip
