"""resolve: map a layer's selected pages to slots, rescuing, remapping, never copying."""

from __future__ import annotations

import torch

from hotset.kernels.dispatch import require, require_tensor, use_kernel
from hotset.kernels.reclaim import POLICIES
from hotset.kernels.resolve import reference
from hotset.kernels.resolve.reference import PoolTooSmallError, Resolved
from hotset.kernels.state import SCRATCH_FAILED, ResidencyState

__all__ = ["PoolTooSmallError", "Resolved", "raise_if_failed", "resolve"]


def resolve(state: ResidencyState, pages: torch.Tensor, policy: str, *, advance: bool = False) -> Resolved:
    """Give every page of `pages` ([N] int32 physical, -1 pads, repeats allowed) a slot.

    After the call each asked page is mapped and marked used at `state.tick`; missed ones hold no data until
    swap_in has filled `miss_slots`. Misses take reserved slots that this call did not rescue; if those do not
    suffice, the reclaimer runs inline. Which reserved slot goes to which missed page is free. `advance` first
    counts the tick up, in the same launch.

    Raises PoolTooSmallError if not enough slots can be reclaimed; on CUDA, where nothing may wait for the
    device, the pages left over have slot -1 and `raise_if_failed` tells. Raises ValueError on wrong arguments.
    """
    require_tensor("pages", pages, (None,), torch.int32, like=state.slot_of)
    require(policy in POLICIES, f"unknown built-in policy {policy!r}; choose one of {', '.join(POLICIES)}")
    if use_kernel(pages) and pages.numel():
        from hotset.kernels.resolve import kernel

        return kernel.launch(state, pages, policy, advance)
    if advance:
        state.tick += 1
    return reference.resolve(state, pages, policy)


def raise_if_failed(state: ResidencyState) -> None:
    """Raise PoolTooSmallError if a resolve since the last call found too few slots. Waits for the device."""
    missing = int(state.scratch[SCRATCH_FAILED])
    if missing:
        state.scratch[SCRATCH_FAILED] = 0
        raise PoolTooSmallError(
            f"{missing} selected pages found no slot among {state.slots}; "
            "the pool must hold the tails and one selection per lane of a layer"
        )
