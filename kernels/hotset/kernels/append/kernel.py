# ruff: noqa: N803 - compile-time parameters are upper case, as everywhere in Triton
# mypy: disable-error-code="import-untyped, no-untyped-def, untyped-decorator"
"""Triton kernel of append: a program a (sequence, KV head)."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from hotset.kernels.dispatch import next_power_of_two


@triton.jit(do_not_specialize=["first_lane"], do_not_specialize_on_alignment=["tails", "offsets"])
def _append(
    keys, values, slots, bounds, slot_of, tails, offsets, first_lane, lanes,
    HEADS: tl.constexpr, PAGE: tl.constexpr, DIM: tl.constexpr, DIMS: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0).to(tl.int64)
    row = program // HEADS
    tail = tl.load(tails + row)
    offset = tl.load(offsets + row)
    page = tail.to(tl.int64) * lanes + first_lane + program % HEADS
    slot = tl.load(slot_of + page, mask=tail >= 0, other=-1).to(tl.int64)
    d = tl.arange(0, DIMS)
    put = (d < DIM) & (slot >= 0)
    key = tl.load(keys + program * DIM + d, mask=put, other=0.0)
    value = tl.load(values + program * DIM + d, mask=put, other=0.0)
    place = slots + (slot * (2 * PAGE) + offset) * DIM + d
    tl.store(place, key, mask=put)
    tl.store(place + PAGE * DIM, value, mask=put)
    edge = bounds + page * (2 * DIM) + d
    old = put & (offset > 0)
    wide = key.to(tl.float32)
    low = tl.minimum(wide, tl.load(edge, mask=old, other=float("inf")).to(tl.float32))
    high = tl.maximum(wide, tl.load(edge + DIM, mask=old, other=float("-inf")).to(tl.float32))
    tl.store(edge, low.to(bounds.dtype.element_ty), mask=put)
    tl.store(edge + DIM, high.to(bounds.dtype.element_ty), mask=put)


def launch(
    keys: torch.Tensor,
    values: torch.Tensor,
    slots: torch.Tensor,
    bounds: torch.Tensor,
    slot_of: torch.Tensor,
    tails: torch.Tensor,
    offsets: torch.Tensor,
    layer: int,
    lanes: int,
) -> None:
    """Arguments as checked by the public function."""
    batch, heads, dim = keys.shape
    _append[(batch * heads,)](
        keys, values, slots, bounds, slot_of, tails, offsets, layer * heads, lanes,
        HEADS=heads, PAGE=slots.shape[2], DIM=dim, DIMS=next_power_of_two(dim), num_warps=1,
    )  # fmt: skip
