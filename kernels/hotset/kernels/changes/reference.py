"""Torch reference of changes."""

from __future__ import annotations

import torch

from hotset.kernels.state import FREE, RESERVED, ResidencyState


def find_changes(
    state: ResidencyState, seen: torch.Tensor, lost: torch.Tensor, gained: torch.Tensor, counts: torch.Tensor
) -> None:
    """See the public function; here in order of slots."""
    slot = torch.arange(state.slots, dtype=torch.int32)
    shown = (state.page_of >= 0) & (state.slot_of[state.page_of.clamp(min=0).long()] == slot)
    visible = torch.where(shown, state.page_of, -1)
    changed = torch.nonzero(visible != seen).flatten()
    fits = changed[: lost.numel()]
    lost[: fits.numel()], gained[: fits.numel()] = seen[fits], visible[fits]
    seen.copy_(visible)
    counts[0], counts[1], counts[2] = changed.numel(), (state.state == RESERVED).sum(), (state.state == FREE).sum()
