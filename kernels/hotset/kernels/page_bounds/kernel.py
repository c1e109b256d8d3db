# ruff: noqa: N803 - compile-time parameters are upper case, as everywhere in Triton
# mypy: disable-error-code="import-untyped, no-untyped-def, untyped-decorator"
"""Triton kernel of page_bounds: a program a page, which reads its keys once."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from hotset.kernels.dispatch import next_power_of_two


@triton.jit
def _page_bounds(
    rows,
    physical,
    bounds,
    row_elements,
    PAGE: tl.constexpr,
    TOKENS: tl.constexpr,
    DIM: tl.constexpr,
    DIMS: tl.constexpr,
    MEAN: tl.constexpr,
):
    n = tl.program_id(0).to(tl.int64)
    page = tl.load(physical + n).to(tl.int64)
    d = tl.arange(0, DIMS)
    t = tl.arange(0, TOKENS)
    low = tl.full([DIMS], float("inf"), tl.float32)
    high = tl.full([DIMS], float("-inf"), tl.float32)
    total = tl.zeros([DIMS], tl.float32)
    for start in range(0, PAGE, TOKENS):
        inside = ((start + t) < PAGE)[:, None] & (d < DIM)[None, :]
        keys = tl.load(rows + n * row_elements + (start + t)[:, None] * DIM + d[None, :], mask=inside, other=0.0)
        keys = keys.to(tl.float32)
        low = tl.minimum(low, tl.min(tl.where(inside, keys, float("inf")), 0))
        high = tl.maximum(high, tl.max(tl.where(inside, keys, float("-inf")), 0))
        total += tl.sum(keys, 0)
    if MEAN:
        low = total / PAGE
        high = low
    out = bounds + page * (2 * DIM) + d
    tl.store(out, low.to(bounds.dtype.element_ty), mask=(d < DIM) & (page >= 0))
    tl.store(out + DIM, high.to(bounds.dtype.element_ty), mask=(d < DIM) & (page >= 0))


def launch(rows: torch.Tensor, physical: torch.Tensor, bounds: torch.Tensor, kind: str) -> None:
    """Arguments as checked by the public function."""
    n, parts, page, dim = rows.shape
    _page_bounds[(n,)](
        rows, physical, bounds, parts * page * dim,
        PAGE=page, TOKENS=min(16, next_power_of_two(page)), DIM=dim, DIMS=next_power_of_two(dim),
        MEAN=kind == "mean", num_warps=4,
    )  # fmt: skip
