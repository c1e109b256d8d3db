"""Pages in rank order: what a lookahead says of every lane of a layer."""

from __future__ import annotations

import math

import torch


def rank_pages(mass: torch.Tensor, pages: torch.Tensor, *, recent: int, width: int) -> torch.Tensor:
    """The best `width` pages of every lane, [B, H, width] int32, best first, -1 pads.

    mass [B, H, max_pages] float32, not negative; pages [B] int32. What every selection holds comes first: page 0, then
    the `recent` newest pages; then the largest mass, ties to the lower page. Needs no host sync.
    """
    logical = torch.arange(mass.shape[2], device=mass.device)
    count = pages.long()[:, None]
    there = logical < count
    always = there & ((logical == 0) | (logical >= count - recent))
    key = torch.where(always[:, None], math.inf, torch.where(there[:, None], mass, -1.0))
    best, order = torch.sort(key, dim=-1, descending=True, stable=True)
    ranks = torch.where(best >= 0, order, -1)[..., :width].to(torch.int32)
    return torch.nn.functional.pad(ranks, (0, width - ranks.shape[2]), value=-1)
