"""Torch reference of append."""

from __future__ import annotations

import torch


def append(
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
    """See the public function."""
    heads = keys.shape[1]
    pages = tails.long()[:, None] * lanes + layer * heads + torch.arange(heads, device=keys.device)
    where = torch.where(tails[:, None] >= 0, slot_of[pages.clamp(min=0)], -1)
    row, head = torch.nonzero(where >= 0, as_tuple=True)
    page, slot, offset = pages[row, head], where[row, head].long(), offsets[row].long()
    key = keys[row, head]
    slots[slot, :, offset] = torch.stack((key, values[row, head]), 1)
    fresh, old = (offset == 0)[:, None], bounds[page]
    low = torch.where(fresh, key, torch.minimum(old[:, 0], key))
    high = torch.where(fresh, key, torch.maximum(old[:, 1], key))
    bounds[page] = torch.stack((low, high), 1)
