"""Torch reference of release: the pages of freed groups lose their slots, and older mentions go stale."""

from __future__ import annotations

import torch

from hotset.kernels.reserve import evict_pages
from hotset.kernels.state import FREE, ResidencyState


def release(state: ResidencyState, groups: torch.Tensor) -> None:
    """Free the slots of all pages of `groups` ([g] int64, distinct) and advance their generation.

    A slot that is FILLING stays so until its commit, which then finds the old generation and drops it.
    """
    pages = (groups[:, None] * state.lanes + torch.arange(state.lanes)).flatten()
    slots = state.slot_of[pages].long()
    slots = slots[slots >= 0]
    evict_pages(state, slots)
    state.state[slots] = FREE
    state.ema[pages] = 0.0
    state.generation[groups] += 1
