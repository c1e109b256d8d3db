"""Torch reference of decide."""

from __future__ import annotations

import math

import torch

from hotset.kernels.state import FILLING, LIVE, RESERVED, ResidencyState
from hotset.protos.lookahead import PROTECTED, SAFE_PROBABILITY, VALUE_UNUSED, VALUE_USED


def join_candidates(ranked: torch.Tensor, recent: torch.Tensor) -> torch.Tensor:
    """See the public function."""
    again = (recent[..., :, None] == ranked[..., None, :]).any(-1)
    return torch.cat((ranked, torch.where(again, -1, recent)), -1)


def least_probability(budget: torch.Tensor, utilisation: torch.Tensor, cost: float) -> torch.Tensor:
    """See the public function; `cost` is what a page takes of an idle link, in saved stalls."""
    told = torch.where((budget >= 0) & (budget <= 1), budget, SAFE_PROBABILITY)
    busy = torch.nan_to_num(utilisation, nan=0.0).clamp(0.0, 1.0)
    price = torch.where(busy < 1, cost / (1 - busy), math.inf)
    return torch.maximum(told, price)


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
    """See the public function; the fields of a Decision."""
    if unknown is not None:
        each = unknown.repeat_interleave(pages.numel() // unknown.numel())
        probability = torch.where(each > 0, 0.0, probability)
    inside = (pages >= 0) & (pages < state.slot_of.numel())
    here = state.slot_of[torch.where(inside, pages, 0).long()] >= 0
    key = torch.where(inside & ~here & (probability > least), probability, -1.0)
    best, order = torch.sort(key, descending=True, stable=True)
    prefetch = torch.where(best[:limit] >= 0, pages[order[:limit]], -1)
    value = VALUE_UNUSED - (VALUE_UNUSED - VALUE_USED) * probability
    values = torch.where(inside & here & (probability >= PROTECTED), value, math.nan)
    if protect:
        write_values(state, pages, values, protect)
        rescue(state, pages, values)
    count.add_((key >= 0).sum(0, keepdim=True, dtype=torch.int32))
    return prefetch, count, values


def rescue(state: ResidencyState, pages: torch.Tensor, values: torch.Tensor) -> None:
    """See the public function."""
    inside = (pages >= 0) & (pages < state.slot_of.numel()) & torch.isfinite(values)
    slot = state.slot_of[torch.where(inside, pages, 0).long()].long()
    # Every slot is written, most of them with what they are, so that no mask needs the host.
    wanted = torch.zeros_like(state.page_of)
    wanted.scatter_reduce_(0, slot.clamp(min=0), (inside & (slot >= 0)).to(wanted.dtype), "amax")
    state.state.copy_(torch.where((wanted > 0) & (state.state == RESERVED), LIVE, state.state))


def write_values(state: ResidencyState, pages: torch.Tensor, values: torch.Tensor, steps: int) -> None:
    """See the public function."""
    inside = (pages >= 0) & (pages < state.slot_of.numel()) & torch.isfinite(values)
    slot = state.slot_of[torch.where(inside, pages, 0).long()].long()
    good = inside & (slot >= 0)
    good &= state.state[torch.where(good, slot, 0)] != FILLING
    state.value[slot[good]] = values[good]
    state.value_until[slot[good]] = state.tick + steps * state.ticks_per_step
