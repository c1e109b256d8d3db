"""Bench of page_scores and select: what choosing the pages costs a layer of a Llama-3-8B shape."""

from __future__ import annotations

import torch

from hotset.kernels.measure import Row, graph_us
from hotset.kernels.page_scores import page_scores
from hotset.kernels.select import select

HEADS, KV_HEADS, DIM, SELECTED = 32, 8, 128, 128


def run() -> list[Row]:
    """Microseconds by batch and pages a sequence; bounds are read once, so their TB/s is that of page_scores."""
    return [_case(batch, width) for batch in (1, 8, 24) for width in (2048, 8192)]


def _case(batch: int, width: int) -> Row:
    query = torch.randn(batch, HEADS, DIM, device="cuda", dtype=torch.bfloat16)
    bounds = torch.randn(batch * width * KV_HEADS, 2, DIM, device="cuda", dtype=torch.bfloat16)
    groups = torch.randperm(batch * width, device="cuda").int().view(batch, width)
    pages = torch.full((batch,), width, device="cuda", dtype=torch.int32)

    def scores(_: int) -> torch.Tensor:
        return page_scores(query, bounds, groups, pages, layer=0, kv_heads=KV_HEADS, lanes=KV_HEADS, scale=DIM**-0.5)

    mass = scores(0)
    us = graph_us(scores, calls=8)
    row: Row = {"batch": batch, "pages": width, "page_scores us": us, "TB/s": bounds.numel() * 2 / us / 1e6}
    for n in (SELECTED, 2 * SELECTED):

        def choose(_: int, n: int = n) -> torch.Tensor:
            return select(mass, pages, selected=SELECTED, candidates=n, recent=4)

        row[f"select {SELECTED} of {n} us"] = graph_us(choose, calls=8)
    return row
