"""Torch reference of page_bounds."""

from __future__ import annotations

import torch


def page_bounds(rows: torch.Tensor, physical: torch.Tensor, bounds: torch.Tensor, kind: str) -> None:
    """See the public function."""
    kept = physical >= 0
    keys, where = rows[kept, 0], physical[kept].long()
    if kind == "mean":
        mean = keys.float().mean(1).to(bounds.dtype)
        bounds[where] = torch.stack((mean, mean), 1)
    else:
        bounds[where] = torch.stack((keys.amin(1), keys.amax(1)), 1)
