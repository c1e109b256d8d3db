"""Torch reference of changes."""

from __future__ import annotations

import torch

from hotset.kernels.state import FREE, RESERVED, ResidencyState


def find_changes(
    state: ResidencyState,
    seen: torch.Tensor,
    shown: torch.Tensor,
    loaded: torch.Tensor,
    evicted: torch.Tensor,
    counts: torch.Tensor,
) -> None:
    """See the public function; here in order of slots."""
    slot = torch.arange(state.slots, dtype=torch.int32)
    shows = (state.page_of >= 0) & (state.slot_of[state.page_of.clamp(min=0).long()] == slot)
    visible = torch.where(shows, state.page_of, -1)
    before, now = seen[visible != seen].long(), visible[visible != seen].long()
    new = now[(now >= 0) & ~shown[now.clamp(min=0)]]
    gone = before[(before >= 0) & (state.slot_of[before.clamp(min=0)] < 0)]
    shown[new], shown[gone] = True, False
    seen.copy_(visible)
    for pages, out in ((new, loaded), (gone, evicted)):
        out[: pages.numel()] = pages[: out.numel()].to(torch.int32)
    kept = [int((state.state == kind).sum()) for kind in (RESERVED, FREE)]
    counts.copy_(torch.tensor([new.numel(), gone.numel(), *kept]))
