"""changes: which pages gained and lost their slot since somebody last looked, and how full the reserve is."""

from __future__ import annotations

import torch

from hotset.kernels.changes import reference
from hotset.kernels.dispatch import require_tensor, use_kernel
from hotset.kernels.state import ResidencyState

__all__ = ["find_changes"]


def find_changes(
    state: ResidencyState,
    seen: torch.Tensor,
    shown: torch.Tensor,
    loaded: torch.Tensor,
    evicted: torch.Tensor,
    counts: torch.Tensor,
) -> None:
    """Compare what the slots show with `seen` ([S] int32, -1 for nothing) and `shown` ([P] bool: in any slot).

    A slot shows a page that is visible there (slot_of points back). `loaded` and `evicted` ([m] int32) get the pages
    that are visible now and were not, and the other way round, in any order and as many as fit; what lies behind is
    left alone. A page that went from slot to slot is in neither. `counts` [4] int64 are set to how many were loaded and
    evicted, also those that did not fit, and the slots RESERVED and FREE. `seen` and `shown` are brought up to date.
    Nothing waits for the host. Raises ValueError on tensors that do not fit.
    """
    require_tensor("seen", seen, (state.slots,), torch.int32, like=state.page_of)
    require_tensor("shown", shown, (state.slot_of.numel(),), torch.bool, like=seen)
    require_tensor("loaded", loaded, (None,), torch.int32, like=seen)
    require_tensor("evicted", evicted, tuple(loaded.shape), torch.int32, like=seen)
    require_tensor("counts", counts, (4,), torch.int64, like=seen)
    if use_kernel(seen):
        from hotset.kernels.changes import kernel

        kernel.launch(state, seen, shown, loaded, evicted, counts)
    else:
        reference.find_changes(state, seen, shown, loaded, evicted, counts)
