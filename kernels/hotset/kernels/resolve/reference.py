"""Torch reference of resolve: map a layer's selected pages to slots, rescuing, remapping, never copying."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from hotset.kernels.reclaim.reference import reclaim_inline
from hotset.kernels.reserve import evict_pages, pop_reserve, reserve_level
from hotset.kernels.state import LIVE, NEVER, RESERVED, ResidencyState
from hotset.protos.errors import CapacityError


class PoolTooSmallError(CapacityError):
    """The pool cannot hold the pinned tails and one selection per lane of a layer."""


@dataclass(frozen=True)
class Resolved:
    """`N` pages were asked for, `M` distinct ones missed."""

    slots: torch.Tensor  # [N] int32, -1 where the page was padding
    hit: torch.Tensor  # [N] bool
    prefetched: torch.Tensor  # [N] bool, a hit that is the first use since a prefetch
    miss_pages: torch.Tensor  # [M] int32, each once
    miss_slots: torch.Tensor  # [M] int32, where swap_in must put them
    miss_count: torch.Tensor  # [1] int32, M; on CUDA miss_* have N entries, and those behind M are undefined


def resolve(state: ResidencyState, pages: torch.Tensor, policy: str) -> Resolved:
    """Give every page of `pages` ([N] int32 physical, -1 pads, repeats allowed) a slot.

    After the call each asked page is mapped and marked used at `state.tick`; missed ones hold no data until
    swap_in has filled `miss_slots`. Raises PoolTooSmallError if not enough slots can be reclaimed.
    """
    asked = pages >= 0
    slots = torch.where(asked, state.slot_of[pages.clamp(min=0).long()], -1)
    hit = slots >= 0
    used = slots[hit].long()
    prefetched = torch.zeros_like(hit)
    prefetched[hit] = state.prefetched[used]
    _touch(state, used)
    missed = torch.unique(pages[asked & ~hit]).long()
    taken = _take(state, missed.numel(), policy)
    _remap(state, missed, taken)
    slots = torch.where(asked, state.slot_of[pages.clamp(min=0).long()], -1)
    count = torch.tensor([missed.numel()], dtype=torch.int32)
    return Resolved(slots, hit, prefetched, missed.to(torch.int32), taken.to(torch.int32), count)


def _use(state: ResidencyState, slots: torch.Tensor) -> None:
    # Between steps `step_tick` is ahead: what is resolved there is of the coming step, and this very call spares it.
    state.last_used[slots] = torch.maximum(state.tick, state.step_tick)
    state.value_until[slots] = NEVER


def _touch(state: ResidencyState, slots: torch.Tensor) -> None:
    _use(state, slots)
    state.prefetched[slots] = False
    rescued = slots[state.state[slots] == RESERVED]
    state.state[rescued] = LIVE


def _take(state: ResidencyState, count: int, policy: str) -> torch.Tensor:
    short = count - reserve_level(state) if count else 0
    if short > 0:
        got = reclaim_inline(state, short, policy)
        if got < short:
            raise PoolTooSmallError(
                f"{count} pages missed but only {count - short + got} of {state.slots} slots can be had; "
                "the pool must hold the tails and one selection per lane of a layer"
            )
    return pop_reserve(state, count)


def _remap(state: ResidencyState, pages: torch.Tensor, slots: torch.Tensor) -> None:
    evict_pages(state, slots)
    state.page_of[slots] = pages.to(torch.int32)
    state.slot_of[pages] = slots.to(torch.int32)
    state.state[slots] = LIVE
    _use(state, slots)
