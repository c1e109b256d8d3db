# ruff: noqa: N803 - compile-time parameters are upper case, as everywhere in Triton
# mypy: disable-error-code="import-untyped, no-untyped-def, untyped-decorator"
"""Triton kernel of changes: a thread a slot; a program takes the places of its pages in a list by one atomic."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from hotset.kernels.state import FREE as _FREE
from hotset.kernels.state import RESERVED as _RESERVED
from hotset.kernels.state import ResidencyState

FREE, RESERVED = tl.constexpr(_FREE), tl.constexpr(_RESERVED)
BLOCK = 1024


@triton.jit
def _append(out, count, page, put, most):
    """Add the pages to `out`, of which `count` tells how many it was to hold."""
    new = tl.sum(put.to(tl.int32))
    if new > 0:
        first = tl.atomic_add(count, new.to(tl.int64), sem="relaxed")
        place = first + tl.cumsum(put.to(tl.int32), 0) - 1
        tl.store(out + place, page, mask=put & (place < most))


@triton.jit(do_not_specialize=["slots", "most"])
def _changes(
    page_of, slot_of, kind, seen, shown, loaded, evicted, counts, slots, most, BLOCK: tl.constexpr
):  # fmt: skip
    slot = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = slot < slots
    page = tl.load(page_of + slot, mask=inside, other=-1)
    state = tl.load(kind + slot, mask=inside, other=255)
    before = tl.load(seen + slot, mask=inside, other=-1)
    back = tl.load(slot_of + page, mask=page >= 0, other=-1)
    now = tl.where((page >= 0) & (back == slot), page, -1)
    changed = inside & (now != before)
    if tl.sum(changed.to(tl.int32)) > 0:
        # Of a page that went from slot to slot nobody writes `shown`; of another one, one slot alone.
        new = changed & (now >= 0)
        new = new & (tl.load(shown + now, mask=new, other=1) == 0)
        gone = changed & (before >= 0)
        gone = gone & (tl.load(slot_of + before, mask=gone, other=0) < 0)
        tl.store(shown + now, 1, mask=new)
        tl.store(shown + before, 0, mask=gone)
        tl.store(seen + slot, now, mask=changed)
        _append(loaded, counts, now, new, most)
        _append(evicted, counts + 1, before, gone, most)
    reserved = tl.sum((state == RESERVED).to(tl.int64))
    free = tl.sum((state == FREE).to(tl.int64))
    tl.atomic_add(counts + 2, reserved, mask=reserved > 0, sem="relaxed")
    tl.atomic_add(counts + 3, free, mask=free > 0, sem="relaxed")


def launch(
    state: ResidencyState,
    seen: torch.Tensor,
    shown: torch.Tensor,
    loaded: torch.Tensor,
    evicted: torch.Tensor,
    counts: torch.Tensor,
) -> None:
    """Arguments as checked by the public function."""
    counts.zero_()
    _changes[(triton.cdiv(state.slots, BLOCK),)](
        state.page_of, state.slot_of, state.state, seen, shown.view(torch.uint8), loaded, evicted, counts,
        state.slots, loaded.numel(), BLOCK=BLOCK, num_warps=4,
    )  # fmt: skip
