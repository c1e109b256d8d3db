# ruff: noqa: N803 - compile-time parameters are upper case, as everywhere in Triton
# mypy: disable-error-code="import-untyped, no-untyped-def, untyped-decorator"
"""Triton kernel of reclaim: one launch that finds the worst slots by radix selection and reserves them."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from hotset.kernels.dispatch import interpreted
from hotset.kernels.state import ResidencyState
from hotset.kernels.victims import (
    PASSES,
    arrive,
    choose,
    clear_histograms,
    count_reserved,
    first_pass,
    narrow,
    rank_slots,
    reserve_chosen,
    wait,
)

PROGRAMS = 64
BLOCK = 2048
# Apart from those of resolve, which may run on another stream only before or after, never beside this.
ARRIVED = tl.constexpr(32)
LEFT = tl.constexpr(33)
LEVEL = tl.constexpr(34)
TIES = tl.constexpr(35)
DONE = tl.constexpr(36)


@triton.jit(do_not_specialize=["slots", "low", "high"])
def _reclaim(
    page_of, kind, last_used, value, value_until, ema, ring, in_ring, ring_tail,
    tick_at, step_tick_at, keys, scratch, reserved, slots, low, high, ticks_per_step,
    LRU: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    program, programs = tl.program_id(0), tl.num_programs(0)
    tick = tl.load(tick_at)
    step_tick = tl.load(step_tick_at)
    level = count_reserved(kind, slots, program, programs, BLOCK)
    tl.atomic_add(scratch + LEVEL, level, sem="relaxed")
    arrive(scratch + ARRIVED)
    wait(scratch + ARRIVED, programs)
    level = tl.load(scratch + LEVEL, volatile=True)
    wanted = high - level
    works = (level < low) & (wanted > 0)
    if works:
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
            program,
            programs,
            LRU,
            False,
            BLOCK,
        )
        arrive(scratch + ARRIVED)
        wait(scratch + ARRIVED, 2 * programs)
        least, wanted = first_pass(scratch, wanted)
        for step in tl.static_range(1, PASSES):
            narrow(keys, scratch, slots, least, program, programs, step, BLOCK)
            arrive(scratch + ARRIVED)
            wait(scratch + ARRIVED, programs * (step + 2))
            least, wanted = choose(scratch, least, wanted, step)
        done = reserve_chosen(
            keys, kind, ring, in_ring, ring_tail, scratch + TIES, slots, least, wanted, program, programs, BLOCK
        )
        tl.atomic_add(scratch + DONE, done, sem="relaxed")
    if arrive(scratch + LEFT) == programs - 1:
        tl.store(reserved, tl.load(scratch + DONE, volatile=True))
        tl.debug_barrier()
        tl.store(scratch + ARRIVED + tl.arange(0, 8), 0)
        if works:
            clear_histograms(scratch)


def launch(state: ResidencyState, low: int, high: int, policy: str) -> torch.Tensor:
    """Arguments as checked by the public function; returns the number of slots reserved, [1] int32."""
    reserved = torch.empty(1, dtype=torch.int32, device=state.state.device)
    programs = 1 if interpreted() else min(PROGRAMS, triton.cdiv(state.slots, BLOCK))
    _reclaim[(programs,)](
        state.page_of, state.state, state.last_used, state.value, state.value_until, state.ema,
        state.ring, state.in_ring.view(torch.uint8), state.ring_tail, state.tick, state.step_tick,
        state.keys, state.scratch, reserved, state.slots, low, high, float(state.ticks_per_step),
        LRU=policy == "lru", BLOCK=BLOCK, num_warps=8,
    )  # fmt: skip
    return reserved
