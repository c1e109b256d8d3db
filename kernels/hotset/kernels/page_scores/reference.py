"""Torch reference of page_scores: a sequence at a time, so that no neighbour changes the order of a sum."""

from __future__ import annotations

import torch


def page_scores(
    query: torch.Tensor,
    bounds: torch.Tensor,
    groups_of: torch.Tensor,
    pages: torch.Tensor,
    layer: int,
    kv_heads: int,
    lanes: int,
    scale: float,
) -> torch.Tensor:
    """See the public function."""
    batch, heads, dim = query.shape
    mass = torch.zeros(batch, kv_heads, groups_of.shape[1], dtype=torch.float32, device=query.device)
    lane = layer * kv_heads + torch.arange(kv_heads, device=query.device)
    for b, count in enumerate(pages.tolist()):
        if count == 0:
            continue
        physical = groups_of[b, :count].long()[None, :] * lanes + lane[:, None]
        low, high = bounds[physical].float().unbind(2)
        q = query[b].float().reshape(kv_heads, heads // kv_heads, dim)
        # max(q*low, q*high) picks high where q is positive and low where it is negative.
        upper = torch.matmul(q.clamp(min=0), high.mT) + torch.matmul(q.clamp(max=0), low.mT)
        mass[b, :, :count] = torch.softmax(upper * scale, -1).sum(1)
    return mass
