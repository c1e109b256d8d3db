"""Bench of attend: achieved bytes/s of keys and values, over selections that do not stay in the L2 cache."""

from __future__ import annotations

import torch

from hotset.kernels.attend import attend
from hotset.kernels.measure import Row, graph_us

# (name, query heads, KV heads, head_dim, value_dim, page_size, pages selected); None: keys and values apart.
SHAPES = [
    ("Llama-3-8B", 32, 8, 128, None, 16, 128),
    ("Qwen2.5-0.5B", 14, 2, 64, None, 16, 64),
    ("MLA", 128, 1, 576, 512, 1, 2048),
]
BATCHES = (1, 2, 4, 8, 16, 24, 64)


def run() -> list[Row]:
    """Microseconds and TB/s by shape and batch, bf16."""
    return [_case(*shape, batch) for shape in SHAPES for batch in BATCHES]


def _case(name: str, heads: int, kv_heads: int, dim: int, value_dim: int | None, page: int, k: int, batch: int) -> Row:
    parts = 2 if value_dim is None else 1
    row_bytes = parts * page * dim * 2
    need = batch * kv_heads * k
    slots = torch.randn(max(4 * need, (1 << 28) // row_bytes), parts, page, dim, device="cuda", dtype=torch.bfloat16)
    sets = 8
    ids = [torch.randperm(slots.shape[0], device="cuda")[:need].int().view(batch, kv_heads, k) for _ in range(sets)]
    valid = torch.full_like(ids[0], page)
    query = torch.randn(batch, heads, dim, device="cuda", dtype=torch.bfloat16)
    us = graph_us(
        lambda i: attend(query, slots, ids[i % sets], valid, scale=dim**-0.5, value_dim=value_dim), calls=2 * sets
    )
    return {"shape": name, "batch": batch, "MB": need * row_bytes / 1e6, "us": us, "TB/s": need * row_bytes / us / 1e6}
