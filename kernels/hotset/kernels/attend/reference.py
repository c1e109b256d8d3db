"""Torch reference of attend: float32, a sequence at a time, over the tokens in selection order."""

from __future__ import annotations

import math

import torch

Parts = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def attend(
    query: torch.Tensor,
    slots: torch.Tensor,
    slot_ids: torch.Tensor,
    valid: torch.Tensor,
    scale: float,
    value_dim: int,
) -> torch.Tensor:
    """See the public function."""
    return combine([parts(query, slots, slot_ids, valid, scale, value_dim)], query.dtype)


def parts(
    query: torch.Tensor,
    slots: torch.Tensor,
    slot_ids: torch.Tensor,
    valid: torch.Tensor,
    scale: float,
    value_dim: int,
) -> Parts:
    """One unnormalised part a head: (top [B, Hq, 1], total [B, Hq, 1], weighted [B, Hq, 1, Dv]), float32 or wider."""
    batch, heads, _ = query.shape
    kv_heads = slot_ids.shape[1]
    wide = torch.promote_types(query.dtype, torch.float32)
    q = query.to(wide).reshape(batch, kv_heads, heads // kv_heads, -1) * (scale / math.log(2))
    top = torch.full((batch, kv_heads, q.shape[2], 1), -torch.inf, dtype=wide, device=query.device)
    total = torch.zeros_like(top)
    weighted = torch.zeros(*top.shape, value_dim, dtype=wide, device=query.device)
    token = torch.arange(slots.shape[2], device=query.device)
    for b in range(batch):
        for h in range(kv_heads):
            ids = slot_ids[b, h].clamp(min=0).long()
            read = (token[None] < valid[b, h, :, None]) & (slot_ids[b, h] >= 0)[:, None]
            if not bool(read.any()):
                continue
            keys = slots[ids, 0][read].to(wide)
            values = slots[ids, 1][read].to(wide) if slots.shape[1] == 2 else keys[:, :value_dim]
            logits = q[b, h] @ keys.T
            top[b, h] = logits.amax(-1, keepdim=True)
            weight = torch.exp2(logits - top[b, h])
            total[b, h] = weight.sum(-1, keepdim=True)
            weighted[b, h, :, 0] = weight @ values
    flat = (batch, heads, 1)
    return top.reshape(flat), total.reshape(flat), weighted.reshape(*flat, value_dim)


def combine(partials: list[Parts], dtype: torch.dtype) -> torch.Tensor:
    """Merge unnormalised parts in the order given."""
    top = torch.cat([p[0] for p in partials], -1)
    total = torch.cat([p[1] for p in partials], -1)
    weighted = torch.cat([p[2] for p in partials], -2)
    best = top.amax(-1, keepdim=True)
    factor = torch.where(top == -torch.inf, 0.0, torch.exp2(top - best))
    norm = (total * factor).sum(-1, keepdim=True)
    out = (weighted * factor[..., None]).sum(-2) / torch.where(norm > 0, norm, 1.0)
    return out.to(dtype)
