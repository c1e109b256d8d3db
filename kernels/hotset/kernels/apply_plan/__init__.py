"""apply_plan: write a plan's page values onto slots, rejecting whatever is stale."""

from __future__ import annotations

import torch

from hotset.kernels.apply_plan import compiled
from hotset.kernels.apply_plan.compiled import warm_up
from hotset.kernels.apply_plan.reference import REASONS
from hotset.kernels.dispatch import require_tensor, use_kernel
from hotset.kernels.state import ResidencyState

__all__ = ["REASONS", "apply_plan", "warm_up"]


def apply_plan(
    state: ResidencyState,
    pages: torch.Tensor,
    generations: torch.Tensor,
    values: torch.Tensor,
    *,
    epoch_tick: int,
    until_tick: int,
    counts: torch.Tensor | None = None,
) -> torch.Tensor:
    """Set `value` of the slots of `pages` ([n] int32 physical) until `until_tick`.

    `generations` [n] int64 must match the page's group; `values` [n] float32 or float64; `epoch_tick` is the last
    tick that the plan has seen: a page used later keeps the built-in value. Returns [1 + len(REASONS)] int64:
    entries applied, then rejected by the first reason that holds, in the order of REASONS; with `counts` they are
    added to that. Nothing waits for the host on CUDA. Raises ValueError on tensors that do not fit.
    """
    require_tensor("pages", pages, (None,), torch.int32, like=state.slot_of)
    require_tensor("generations", generations, tuple(pages.shape), torch.int64, like=pages)
    require_tensor("values", values, tuple(pages.shape), torch.float32, torch.float64, like=pages)
    if counts is None:
        counts = torch.zeros(1 + len(REASONS), dtype=torch.int64, device=pages.device)
    require_tensor("counts", counts, (1 + len(REASONS),), torch.int64, like=pages)
    if use_kernel(pages) and pages.numel():
        from hotset.kernels.apply_plan import kernel

        kernel.launch(state, pages, generations, values, counts, epoch_tick, until_tick)
    else:
        compiled.apply_plan(
            state, pages, generations, values, epoch_tick=epoch_tick, until_tick=until_tick, counts=counts
        )
    return counts
