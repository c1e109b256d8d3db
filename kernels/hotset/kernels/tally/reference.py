"""Torch reference of tally."""

from __future__ import annotations

import torch

from hotset.kernels.state import FILLING, ResidencyState

NOBODY = -1


def count_uses(slots: torch.Tensor, prefetched: torch.Tensor, cause: torch.Tensor, used: torch.Tensor) -> None:
    """See the public function."""
    for layer, (mine, first) in enumerate(zip(slots, prefetched, strict=True)):
        once = torch.unique(mine[first & (mine >= 0)]).long()
        why = cause[once].long()
        used[:, layer] += torch.bincount(why[why != NOBODY], minlength=used.shape[0])
        cause[once] = NOBODY


def count_unused(state: ResidencyState, cause: torch.Tensor, left: torch.Tensor) -> None:
    """See the public function."""
    cause = cause[: state.slots]
    there = (state.prefetched | (state.state == FILLING)) & (cause != NOBODY)
    layer = state.page_of[there].long() % state.lanes // (state.lanes // left.shape[1])
    one = torch.ones_like(layer)
    left.index_put_((cause[there].long(), layer), one, accumulate=True)
