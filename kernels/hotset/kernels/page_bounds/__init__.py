"""Page summaries: what the selector keeps on the device of every page's keys."""

from __future__ import annotations

import torch

from hotset.kernels.dispatch import require, require_tensor, use_kernel
from hotset.kernels.page_bounds import reference

KINDS = ("minmax", "mean")
FLOATS = (torch.bfloat16, torch.float16, torch.float32)

__all__ = ["KINDS", "page_bounds"]


def page_bounds(rows: torch.Tensor, physical: torch.Tensor, bounds: torch.Tensor, *, kind: str = "minmax") -> None:
    """Write the summaries of `n` sealed pages into `bounds[physical]`.

    rows: [n, 1 or 2, page_size, head_dim], keys first. physical: [n] int32, distinct; negative entries are
    skipped. bounds: [P, 2, head_dim] of the rows' dtype. `minmax` writes the smallest and largest key of every
    dimension (Tang et al., Quest, ICML 2024, section 3.3); `mean` writes the mean key twice, so that the same
    scoring op ranks by it. Raises ValueError on shapes, dtypes, strides or devices that do not fit.
    """
    require(kind in KINDS, f"unknown summary {kind!r}; choose one of {', '.join(KINDS)}")
    require_tensor("rows", rows, (None, None, None, None), *FLOATS, like=bounds)
    require(1 <= rows.shape[1] <= 2, f"rows must hold keys, or keys and values, not {rows.shape[1]} parts")
    require_tensor("physical", physical, (rows.shape[0],), torch.int32, like=bounds)
    require_tensor("bounds", bounds, (None, 2, rows.shape[3]), rows.dtype)
    if rows.shape[0] == 0:
        return
    if use_kernel(bounds):
        from hotset.kernels.page_bounds import kernel

        kernel.launch(rows, physical, bounds, kind)
    else:
        reference.page_bounds(rows, physical, bounds, kind)
