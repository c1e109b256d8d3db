"""prefetch: reserve slots for pages in flight, and make them visible at a safe point."""

from __future__ import annotations

from typing import NamedTuple

import torch

from hotset.kernels.dispatch import require, require_tensor, use_kernel
from hotset.kernels.prefetch import reference
from hotset.kernels.prefetch.reference import REASONS
from hotset.kernels.state import FILLING, ResidencyState

__all__ = ["REASONS", "Listed", "begin_prefetch", "commit_prefetch", "mark_in_flight"]


class Listed(NamedTuple):
    """What spares begin_prefetch the search through all slots, where it is called many times between safe points."""

    in_flight: torch.Tensor  # [P + 1] bool, see mark_in_flight
    most: torch.Tensor  # [1] int32, entries from there on are -1


def mark_in_flight(state: ResidencyState, marks: torch.Tensor) -> None:
    """Set `marks` ([P + 1] bool, the last is for slots without a flight): whether each page is in flight now.

    Nothing waits for the host. Raises ValueError on a tensor that does not fit.
    """
    pages = state.slot_of.numel()
    require_tensor("marks", marks, (pages + 1,), torch.bool, like=state.slot_of)
    marks.zero_()
    marks.scatter_(0, torch.where(state.state == FILLING, state.page_of, pages).long(), True)


def begin_prefetch(
    state: ResidencyState, pages: torch.Tensor, generations: torch.Tensor, *, keep: int, listed: Listed | None = None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Start bringing in `pages` ([n] int32 physical, best first; `generations` [n] int64), leaving `keep` reserved.

    Returns (pages [m] int32, slots [m] int32, counts [1 + len(REASONS)] int64: begun, then rejected by the
    first reason that holds). The slots are FILLING and invisible until commit_prefetch. On CUDA, where nothing
    may wait for the device, m is n, and what lies behind counts[0] is -1. Call it at a safe point only. With `listed`,
    marks that are as old as the last safe point will do, if no page was asked for twice since.
    Raises ValueError on arguments that do not fit.
    """
    require_tensor("pages", pages, (None,), torch.int32, like=state.slot_of)
    require_tensor("generations", generations, tuple(pages.shape), torch.int64, like=pages)
    require(keep >= 0, f"keep must not be negative, but is {keep}")
    if listed is not None:
        require_tensor("in_flight", listed.in_flight, (state.slot_of.numel() + 1,), torch.bool, like=pages)
        require_tensor("most", listed.most, (1,), torch.int32, like=pages)
    if use_kernel(pages) and pages.numel():
        from hotset.kernels.prefetch import kernel

        return kernel.begin(state, pages, generations, keep, listed or _everything(state, pages))
    if listed is not None:
        pages, generations = pages[: int(listed.most)], generations[: int(listed.most)]
    return reference.begin_prefetch(state, pages, generations, keep=keep)


def _everything(state: ResidencyState, pages: torch.Tensor) -> Listed:
    marks = torch.empty(state.slot_of.numel() + 1, dtype=torch.bool, device=pages.device)
    mark_in_flight(state, marks)
    return Listed(marks, torch.full((1,), pages.numel(), dtype=torch.int32, device=pages.device))


def commit_prefetch(
    state: ResidencyState, pages: torch.Tensor, slots: torch.Tensor, generations: torch.Tensor
) -> torch.Tensor:
    """End the flight of `slots` ([m] int32), whose copies have arrived; return which became visible, [m] bool.

    `pages` [m] int32 and `generations` [m] int64 as when the flight began. A page that was loaded on demand
    meanwhile, or whose group was freed, is dropped and its slot is FREE. On CUDA entries of -1 are skipped.
    Raises ValueError on arguments that do not fit.
    """
    require_tensor("pages", pages, (None,), torch.int32, torch.int64, like=state.slot_of)
    require_tensor("slots", slots, tuple(pages.shape), torch.int32, torch.int64, like=pages)
    require_tensor("generations", generations, tuple(pages.shape), torch.int64, like=pages)
    if use_kernel(pages) and pages.numel():
        from hotset.kernels.prefetch import kernel

        return kernel.commit(state, pages, slots, generations)
    return reference.commit_prefetch(state, pages, slots, generations)
