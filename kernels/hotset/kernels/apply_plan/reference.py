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
    inside = (pages >= 0) & (pages < state.slot_of.numel())
    page = torch.where(inside, pages, 0).long()
    slot = state.slot_of[page].long()
    # From the last reason to the first, which is the one that counts; slot -1 reads the last slot's, and loses.
    reason = (state.last_used[slot] > epoch_tick) * 5
    reason.masked_fill_((slot < 0) | (state.state[slot] == FILLING), 4)
    reason.masked_fill_(~torch.isfinite(values), 3)
    reason.masked_fill_(state.generation[page // state.lanes] != generations, 2)
    reason.masked_fill_(~inside, 1)
    counts = torch.bincount(reason, minlength=1 + len(REASONS))
    good = slice(None) if counts[0] == reason.numel() else reason == 0
    slot = slot[good]
    state.value[slot] = values[good].float()
    state.value_until[slot] = until_tick
    return counts
