"""Torch reference of fold."""

from __future__ import annotations

import torch

from hotset.protos.heat import CEILING, DECAY, EPSILON


def fold(average: torch.Tensor, ema: torch.Tensor, by_margin: bool) -> None:
    """See the public function."""
    average.mul_(DECAY)
    ema.copy_(255 - 8 * (CEILING - torch.log2(average + EPSILON)) if by_margin else average)
