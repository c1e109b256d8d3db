"""Reference of apply_plan, in NumPy: write a plan's page values onto slots, rejecting whatever is stale."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from hotset.kernels.state import FILLING, ResidencyState

REASONS = ("out_of_range", "stale_generation", "not_finite", "not_resident", "superseded")


def apply_plan(
    state: ResidencyState,
    pages: torch.Tensor,
    generations: torch.Tensor,
    values: torch.Tensor,
    *,
    epoch_tick: int,
    until_tick: int,
) -> torch.Tensor:
    """Set `value` of the slots of `pages` ([n] int32 physical) until `until_tick`.

    `generations` [n] int64 must match the page's group; `epoch_tick` is the last tick that the plan has seen: a
    page used later keeps the built-in value. Returns [1 + len(REASONS)] int64: entries applied, then
    rejected by the first reason that holds, in the order of REASONS.
    """
    page, planned = pages.numpy(), values.numpy()
    inside = (page >= 0) & (page < state.slot_of.numel())
    slot = state.slot_of.numpy().take(page, mode="clip")
    current = state.generation.numpy().take(page // state.lanes, mode="clip")
    visible = (slot >= 0) & (state.state.numpy().take(slot, mode="clip") != FILLING)
    seen = state.last_used.numpy().take(slot, mode="clip") <= epoch_tick
    checks = (inside, current == generations.numpy(), np.isfinite(planned), visible, seen)
    good = np.logical_and.reduce(checks)
    state.value.numpy()[slot[good]] = planned[good]
    state.value_until.numpy()[slot[good]] = until_tick
    return torch.tensor([int(good.sum()), *_rejected(checks)])


def _rejected(checks: tuple[npt.NDArray[np.bool_], ...]) -> list[int]:
    """How many entries pass all checks before each one and fail it."""
    passed, counts = np.ones_like(checks[0]), []
    for check in checks:
        counts.append(int((passed & ~check).sum()))
        passed &= check
    return counts
