"""fold: a step ends, and all pages' averages decay by it; what the reclaimer ranks by follows them."""

from __future__ import annotations

import torch

from hotset.kernels.dispatch import require_tensor, use_kernel
from hotset.kernels.fold import reference

__all__ = ["fold"]


def fold(average: torch.Tensor, ema: torch.Tensor, *, by_margin: bool) -> None:
    """Multiply `average` ([P] float32) by DECAY and write `ema` ([P] float32) from it.

    A page's average has got `(1 - DECAY) / DECAY * heat` added in this step by `record`, so that afterwards it is
    `DECAY * average + (1 - DECAY) * heat`. `ema` is the average itself if it is one of scores; an average of margins is
    written as the score that has its value (see hotset.protos.heat). Raises ValueError on tensors that do not fit.
    """
    require_tensor("average", average, (None,), torch.float32)
    require_tensor("ema", ema, tuple(average.shape), torch.float32, like=average)
    if use_kernel(average) and average.numel():
        from hotset.kernels.fold import kernel

        kernel.launch(average, ema, by_margin)
    else:
        reference.fold(average, ema, by_margin)
