# ruff: noqa: N803 - compile-time parameters are upper case, as everywhere in Triton
# mypy: disable-error-code="import-untyped, no-untyped-def, untyped-decorator"
"""Triton kernel of apply_plan: a plan entry a lane of a program."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from hotset.kernels.state import FILLING as _FILLING
from hotset.kernels.state import ResidencyState

FILLING = tl.constexpr(_FILLING)
BLOCK = 256
"""Entries a program: each waits for five loads in a row, so they are spread wide (not timed against 1,024)."""


@triton.jit(do_not_specialize=["total", "groups", "lanes", "epoch_tick", "until_tick"])
def _apply_plan(
    pages, generations, values, counts, slot_of, kind, last_used, value, value_until, generation,
    total, groups, lanes, epoch_tick, until_tick,
    BLOCK: tl.constexpr,
):  # fmt: skip
    n = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    there = n < total
    page = tl.load(pages + n, mask=there, other=-1)
    planned = tl.load(values + n, mask=there, other=0.0).to(tl.float32)
    inside = (page >= 0) & (page < groups * lanes)
    current = tl.load(generation + page // lanes, mask=inside, other=-1).to(tl.int64)
    fresh = current == tl.load(generations + n, mask=there, other=-2)
    slot = tl.load(slot_of + page, mask=inside, other=-1)
    resident = slot >= 0
    resident = resident & (tl.load(kind + slot, mask=resident, other=0) != FILLING)
    used = tl.load(last_used + slot, mask=resident, other=0)
    finite = (planned == planned) & (tl.abs(planned) != float("inf"))
    # The first reason that holds, in the order of REASONS; 0 is none.
    reason = tl.where(resident & (used > epoch_tick), 5, 0)
    reason = tl.where(resident, reason, 4)
    reason = tl.where(finite, reason, 3)
    reason = tl.where(fresh, reason, 2)
    reason = tl.where(inside, reason, 1)
    good = there & (reason == 0)
    tl.store(value + slot, planned, mask=good)
    tl.store(value_until + slot, until_tick, mask=good)
    for code in tl.static_range(6):
        tl.atomic_add(counts + code, tl.sum((there & (reason == code)).to(tl.int64)), sem="relaxed")


def launch(
    state: ResidencyState,
    pages: torch.Tensor,
    generations: torch.Tensor,
    values: torch.Tensor,
    counts: torch.Tensor,
    epoch_tick: int,
    until_tick: int,
) -> None:
    """Arguments as checked by the public function."""
    _apply_plan[(triton.cdiv(pages.numel(), BLOCK),)](
        pages, generations, values, counts, state.slot_of, state.state, state.last_used, state.value,
        state.value_until, state.generation, pages.numel(), state.generation.numel(), state.lanes,
        epoch_tick, until_tick, BLOCK=BLOCK, num_warps=4,
    )  # fmt: skip
