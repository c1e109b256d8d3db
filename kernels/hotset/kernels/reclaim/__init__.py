"""reclaim: keep the reserve between two watermarks, off the critical path."""

from __future__ import annotations

import torch

from hotset.kernels.dispatch import require, use_kernel
from hotset.kernels.reclaim import reference
from hotset.kernels.reclaim.reference import POLICIES, effective_value, reclaim_inline
from hotset.kernels.state import ResidencyState

__all__ = ["POLICIES", "effective_value", "reclaim", "reclaim_inline"]


def reclaim(state: ResidencyState, *, low: int, high: int, policy: str) -> torch.Tensor:
    """If the reserve is below `low`, fill it up to `high`; return how many slots were reserved, [1] int32.

    Free slots go first, then live slots that the current step did not use, worst value first (the order within
    one refill is free). PINNED and FILLING slots are never touched. On CUDA nothing waits for the host; the
    stream must not run another residency op of the same state at the same time.
    Raises ValueError on an unknown policy or watermarks that are not 0 <= low <= high <= slots.
    """
    require(policy in POLICIES, f"unknown built-in policy {policy!r}; choose one of {', '.join(POLICIES)}")
    require(0 <= low <= high <= state.slots, f"need 0 <= low <= high <= {state.slots} slots, not {low=}, {high=}")
    if use_kernel(state.state):
        from hotset.kernels.reclaim import kernel

        return kernel.launch(state, low, high, policy)
    return torch.tensor([reference.reclaim(state, low=low, high=high, policy=policy)], dtype=torch.int32)
