"""Sizes of a model, as far as the tiers go."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class ModelShape:
    """What the tiers need to know of a model."""

    name: str
    layers: int
    kv_heads: int
    query_heads: int
    head_dim: int
    dtype: torch.dtype
