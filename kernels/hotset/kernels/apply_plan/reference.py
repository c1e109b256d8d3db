"""Torch reference of apply_plan: write a plan's page values onto slots, rejecting whatever is stale."""

from __future__ import annotations

import torch

from hotset.kernels.state import FILLING, ResidencyState

REASONS = ("out_of_range", "stale_generation", "not_finite", "not_resident", "superseded")


def apply_plan(
    state: ResidencyState,
    pages: torch.Tensor,
    generations: torch.Tensor,
    values: torch.Tensor,
    *,
    epoch_tick: int,
    until_tick: int,
) -> torch.Tensor:
    """Set `value` of the slots of `pages` ([n] int32 physical) until `until_tick`.

    `generations` [n] int64 must match the page's group; `epoch_tick` is the last tick that the plan has seen: a
    page used later keeps the built-in value. Returns [1 + len(REASONS)] int64: entries applied, then
    rejected by the first reason that holds, in the order of REASONS.
    """
    reason = torch.full((pages.numel(),), -1, dtype=torch.int64)
    inside = (pages >= 0) & (pages < state.slot_of.numel())
    reason[~inside] = 0
    page = torch.where(inside, pages, 0).long()
    slot = state.slot_of[page].long()
    resident = slot >= 0
    _reject(reason, state.generation[page // state.lanes].long() != generations, 1)
    _reject(reason, ~torch.isfinite(values), 2)
    _reject(reason, ~resident | (state.state[slot] == FILLING), 3)
    _reject(reason, resident & (state.last_used[slot] > epoch_tick), 4)
    good = reason < 0
    state.value[slot[good]] = values[good].float()
    state.value_until[slot[good]] = until_tick
    return torch.bincount(reason + 1, minlength=1 + len(REASONS))


def _reject(reason: torch.Tensor, where: torch.Tensor, code: int) -> None:
    reason[where & (reason < 0)] = code
