"""Page scores: an upper bound of every page's attention mass, from its summary alone."""

from __future__ import annotations

import torch

from hotset.kernels.dispatch import require, require_tensor, use_kernel
from hotset.kernels.page_scores import reference

FLOATS = (torch.bfloat16, torch.float16, torch.float32)

__all__ = ["page_scores"]


def page_scores(
    query: torch.Tensor,
    bounds: torch.Tensor,
    groups_of: torch.Tensor,
    pages: torch.Tensor,
    *,
    layer: int,
    kv_heads: int,
    lanes: int,
    scale: float,
) -> torch.Tensor:
    """Estimated attention mass of every page, [B, kv_heads, max_pages] float32; 0 beyond a sequence's pages.

    query: [B, Hq, D], after rotary embedding; query head h reads KV head h // (Hq // kv_heads). bounds: [P, 2, D]
    by physical page. groups_of: [B, max_pages] int32, -1 pads. pages: [B] int32, pages of each sequence. `lanes`
    is layers * kv_heads; the physical page of page j is groups_of[b, j] * lanes + layer * kv_heads + head.

    A page's score is sum_d max(q_d * min_d, q_d * max_d) * scale (Tang et al., Quest, ICML 2024, section 3.3),
    softmax over the sequence's pages per query head, summed over the query heads of the KV head. All sums are
    float32, in an order that neither residency nor the other sequences of the batch can change. A sequence of
    no pages (a padded batch row) gives zeros. Raises ValueError on arguments that do not fit.
    """
    require_tensor("query", query, (None, None, None), *FLOATS, like=bounds)
    batch, heads, dim = query.shape
    require_tensor("bounds", bounds, (None, 2, dim), *FLOATS)
    require_tensor("groups_of", groups_of, (batch, None), torch.int32, like=bounds)
    require_tensor("pages", pages, (batch,), torch.int32, like=bounds)
    require(kv_heads > 0 and heads % kv_heads == 0, f"{heads} query heads do not divide among {kv_heads} KV heads")
    require(0 <= layer * kv_heads <= lanes - kv_heads, f"layer {layer} lies outside {lanes} lanes")
    if use_kernel(query):
        from hotset.kernels.page_scores import kernel

        return kernel.launch(query, bounds, groups_of, pages, layer, kv_heads, lanes, scale)
    return reference.page_scores(query, bounds, groups_of, pages, layer, kv_heads, lanes, scale)
