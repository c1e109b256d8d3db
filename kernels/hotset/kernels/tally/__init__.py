"""tally: whose prefetches a step has used for the first time, and whose are still there unused, layer by layer."""

from __future__ import annotations

import torch

from hotset.kernels.dispatch import require, require_tensor, use_kernel
from hotset.kernels.state import ResidencyState
from hotset.kernels.tally import reference
from hotset.kernels.tally.reference import NOBODY

__all__ = ["NOBODY", "count_unused", "count_uses"]


def count_uses(slots: torch.Tensor, prefetched: torch.Tensor, cause: torch.Tensor, used: torch.Tensor) -> None:
    """Add first uses since a prefetch to `used` ([C, L] int64), by who caused the prefetch.

    slots [L, N] int32 (-1 pads, repeats allowed) and prefetched [L, N] bool are what resolve says of L layers. `cause`
    ([S or more] int32) names by slot who caused its prefetch, NOBODY if no one did; a slot that is used belongs to
    nobody afterwards, so that it counts once. Nothing waits for the host. Raises ValueError on tensors that do not fit.
    """
    require_tensor("slots", slots, (None, None), torch.int32, like=cause)
    require_tensor("prefetched", prefetched, tuple(slots.shape), torch.bool, like=cause)
    require_tensor("cause", cause, (None,), torch.int32)
    _require_table("used", used, slots.shape[0], cause)
    if use_kernel(slots) and slots.numel():
        from hotset.kernels.tally import kernel

        kernel.count_uses(slots, prefetched, cause, used)
        return
    reference.count_uses(slots, prefetched, cause, used)


def count_unused(state: ResidencyState, cause: torch.Tensor, left: torch.Tensor) -> None:
    """Add what was prefetched and is there unused, or in flight, to `left` ([C, L] int64), by cause and layer.

    Nothing waits for the host. Raises ValueError on tensors that do not fit.
    """
    require_tensor("cause", cause, (None,), torch.int32, like=state.page_of)
    require(cause.numel() >= state.slots, f"{cause.numel()} causes of {state.slots} slots")
    _require_table("left", left, state.ticks_per_step, cause)
    if use_kernel(cause):
        from hotset.kernels.tally import kernel

        kernel.count_unused(state, cause, left)
        return
    reference.count_unused(state, cause, left)


def _require_table(name: str, table: torch.Tensor, layers: int, like: torch.Tensor) -> None:
    fits = table.dim() == 2 and table.shape[1] == layers and table.dtype == torch.int64
    require(fits, f"{name} must be [causes, {layers}] int64, not {tuple(table.shape)} {table.dtype}")
    require(table.device == like.device, f"{name} is on {table.device}, but the others are on {like.device}")
