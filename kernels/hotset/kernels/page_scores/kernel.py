# ruff: noqa: N803 - compile-time parameters are upper case, as everywhere in Triton
# mypy: disable-error-code="import-untyped, no-untyped-def, untyped-decorator"
"""Triton kernels of page_scores: raw bounds by blocks of pages, then softmax and the sum over query heads."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from hotset.kernels.dispatch import next_power_of_two

# Fixed, whatever the batch: a longer neighbour must not change the order of a sum.
PAGES_BOUND = 32
SOFTMAX_TILE = 4096


@triton.jit(do_not_specialize=["max_pages", "lane_of_head_0"])
def _bounds_dot(
    query,
    bounds,
    groups_of,
    pages,
    raw,
    scale,
    max_pages,
    lanes,
    lane_of_head_0,
    KV_HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    DIM: tl.constexpr,
    DIMS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    b = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1)
    count = tl.load(pages + b)
    if tl.program_id(2) * BLOCK < count:
        j = tl.program_id(2) * BLOCK + tl.arange(0, BLOCK)
        d = tl.arange(0, DIMS)
        group = tl.load(groups_of + b * max_pages + j, mask=j < count, other=0).to(tl.int64)
        physical = group * lanes + lane_of_head_0 + head
        inside = (j < count)[:, None] & (d < DIM)[None, :]
        where = bounds + physical[:, None] * (2 * DIM) + d[None, :]
        low = tl.load(where, mask=inside, other=0.0).to(tl.float32)
        high = tl.load(where + DIM, mask=inside, other=0.0).to(tl.float32)
        first = (b * KV_HEADS + head) * GROUP
        for g in range(GROUP):
            q = tl.load(query + (first + g) * DIM + d, mask=d < DIM, other=0.0).to(tl.float32)
            # max(q*low, q*high) is q*high where q is positive and q*low where it is negative.
            upper = tl.sum(tl.maximum(q, 0.0)[None, :] * high + tl.minimum(q, 0.0)[None, :] * low, 1) * scale
            tl.store(raw + (first + g) * max_pages + j, upper, mask=j < count)


@triton.jit(do_not_specialize=["max_pages"])
def _softmax_sum(
    raw, pages, mass, max_pages, KV_HEADS: tl.constexpr, GROUP: tl.constexpr, GROUPS: tl.constexpr, BLOCK: tl.constexpr
):
    lane = tl.program_id(0).to(tl.int64)
    count = tl.load(pages + lane // KV_HEADS)
    g = tl.arange(0, GROUPS)
    at = raw + (lane * GROUP + g)[:, None] * max_pages
    top = tl.full([GROUPS], float("-inf"), tl.float32)
    # `while`, not `range`: NumPy 2.4 breaks run-time ranges in Triton 3.6's interpreter.
    start = 0
    while start < count:
        j = start + tl.arange(0, BLOCK)
        s = tl.load(at + j[None, :], mask=(g < GROUP)[:, None] & (j < count)[None, :], other=float("-inf"))
        top = tl.maximum(top, tl.max(s, 1))
        start += BLOCK
    top = tl.where(top == float("-inf"), 0.0, top)
    total = tl.zeros([GROUPS], tl.float32)
    start = 0
    while start < count:
        j = start + tl.arange(0, BLOCK)
        s = tl.load(at + j[None, :], mask=(g < GROUP)[:, None] & (j < count)[None, :], other=float("-inf"))
        total += tl.sum(tl.exp(s - top[:, None]), 1)
        start += BLOCK
    weight = 1.0 / tl.where(total > 0, total, 1.0)
    start = 0
    while start < max_pages:
        j = start + tl.arange(0, BLOCK)
        s = tl.load(at + j[None, :], mask=(g < GROUP)[:, None] & (j < count)[None, :], other=float("-inf"))
        share = tl.sum(tl.exp(s - top[:, None]) * weight[:, None], 0)
        tl.store(mass + lane * max_pages + j, tl.where(j < count, share, 0.0), mask=j < max_pages)
        start += BLOCK


def launch(
    query: torch.Tensor,
    bounds: torch.Tensor,
    groups_of: torch.Tensor,
    pages: torch.Tensor,
    layer: int,
    kv_heads: int,
    lanes: int,
    scale: float,
) -> torch.Tensor:
    """Arguments as checked by the public function."""
    batch, heads, dim = query.shape
    max_pages, group = groups_of.shape[1], heads // kv_heads
    groups = next_power_of_two(group)
    raw = torch.empty(batch, heads, max_pages, dtype=torch.float32, device=query.device)
    mass = torch.empty(batch, kv_heads, max_pages, dtype=torch.float32, device=query.device)
    _bounds_dot[(batch, kv_heads, triton.cdiv(max_pages, PAGES_BOUND))](
        query, bounds, groups_of, pages, raw, scale, max_pages, lanes, layer * kv_heads,
        KV_HEADS=kv_heads, GROUP=group, DIM=dim, DIMS=next_power_of_two(dim), BLOCK=PAGES_BOUND, num_warps=4,
    )  # fmt: skip
    _softmax_sum[(batch * kv_heads,)](
        raw, pages, mass, max_pages,
        KV_HEADS=kv_heads, GROUP=group, GROUPS=groups, BLOCK=max(16, SOFTMAX_TILE // groups), num_warps=8,
    )  # fmt: skip
    return mass
