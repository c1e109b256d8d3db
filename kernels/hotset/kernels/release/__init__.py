"""release: the pages of freed groups lose their slots, and older mentions of them go stale."""

from __future__ import annotations

import torch

from hotset.kernels.dispatch import require_tensor, use_kernel
from hotset.kernels.release import reference
from hotset.kernels.state import ResidencyState

__all__ = ["release"]


def release(state: ResidencyState, groups: torch.Tensor) -> None:
    """Free the slots of all pages of `groups` ([g] int64, distinct) and advance their generation.

    A slot that is FILLING stays so until its commit, which then finds the old generation and drops it.
    Raises ValueError on a tensor that does not fit.
    """
    require_tensor("groups", groups, (None,), torch.int64, like=state.slot_of)
    if use_kernel(groups) and groups.numel():
        from hotset.kernels.release import kernel

        kernel.launch(state, groups)
    else:
        reference.release(state, groups)
