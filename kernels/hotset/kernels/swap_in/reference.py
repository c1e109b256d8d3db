"""Torch reference of swap_in."""

from __future__ import annotations

import torch


def swap_in(
    src: torch.Tensor,
    dst: torch.Tensor,
    src_index: torch.Tensor,
    dst_index: torch.Tensor,
    count: torch.Tensor,
    frame_of: torch.Tensor | None,
) -> None:
    """See the public function."""
    m = min(int(count), src_index.numel())
    source, target = src_index[:m].long(), dst_index[:m].long()
    if frame_of is not None:
        source = torch.where(source >= 0, frame_of[source.clamp(min=0)].long(), -1)
    kept = (source >= 0) & (target >= 0)
    dst[target[kept]] = src[source[kept]]
