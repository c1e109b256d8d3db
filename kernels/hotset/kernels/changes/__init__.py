"""changes: which slots show another page than when somebody last looked, and how full the reserve is."""

from __future__ import annotations

import torch

from hotset.kernels.changes import reference
from hotset.kernels.dispatch import require_tensor, use_kernel
from hotset.kernels.state import ResidencyState

__all__ = ["find_changes"]


def find_changes(
    state: ResidencyState, seen: torch.Tensor, lost: torch.Tensor, gained: torch.Tensor, counts: torch.Tensor
) -> None:
    """Compare what the slots show with `seen` ([S] int32, -1 for nothing), and bring that up to date.

    A slot shows a page that is visible there (slot_of points back). Of changed slots, `lost` and `gained` ([m] int32,
    any order, -1 for none) get the page before and now, as many as fit; the entries behind are left alone. `counts`
    [3] int64 are set to the slots that changed, also those that did not fit, and the slots RESERVED and FREE.
    Nothing waits for the host. Raises ValueError on tensors that do not fit.
    """
    require_tensor("seen", seen, (state.slots,), torch.int32, like=state.page_of)
    require_tensor("lost", lost, (None,), torch.int32, like=seen)
    require_tensor("gained", gained, tuple(lost.shape), torch.int32, like=seen)
    require_tensor("counts", counts, (3,), torch.int64, like=seen)
    if use_kernel(seen):
        from hotset.kernels.changes import kernel

        kernel.launch(state, seen, lost, gained, counts)
    else:
        reference.find_changes(state, seen, lost, gained, counts)
