"""prefetch: reserve slots for pages in flight, and make them visible at a safe point."""

from __future__ import annotations

from typing import NamedTuple

import torch

from hotset.kernels.dispatch import require, require_tensor, use_kernel
from hotset.kernels.prefetch import compiled, reference
from hotset.kernels.prefetch.compiled import warm_up
from hotset.kernels.prefetch.reference import REASONS
from hotset.kernels.state import FILLING, ResidencyState

__all__ = [
    "REASONS",
    "Ahead",
    "Listed",
    "begin_ahead",
    "begin_prefetch",
    "commit_ahead",
    "commit_prefetch",
    "mark_in_flight",
    "warm_up",
]


class Listed(NamedTuple):
    """What spares begin_prefetch the search through all slots, where it is called many times between safe points."""

    in_flight: torch.Tensor  # [P + 1] bool, see mark_in_flight
    most: torch.Tensor  # [1] int32, entries from there on are -1


class Ahead(NamedTuple):
    """What a flight that begins between two layers depends on, all on the device. The first three bound its entries."""

    wanted: torch.Tensor  # [1] int32, entries of the list from there on mean nothing
    most: torch.Tensor  # [1] int32
    room: torch.Tensor  # [1] int32
    frame_of: torch.Tensor  # [P] int32, -1 for pages that are not in host memory
    in_flight: torch.Tensor  # [P + 1] bool, see mark_in_flight: as of this step's safe point
    cause: torch.Tensor  # [S or more] int32, by slot: who caused the prefetch into it


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
    return compiled.begin_prefetch(state, pages, generations, keep=keep)


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


def begin_ahead(
    state: ResidencyState, pages: torch.Tensor, ahead: Ahead, count: torch.Tensor, *, keep: int, why: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """As begin_prefetch, between two layers: `pages` ([n] int32 physical, surest first) of a layer that comes later.

    Returns pages and slots, [n] int32 each, of which as many mean something as `count` ([1] int32) is set to. Leaves
    `keep` slots reserved, and writes `why` to the causes of the slots that it takes. No page may have been asked for
    twice since the marks were made. Nothing waits for the host. Raises ValueError on tensors that do not fit.
    """
    require_tensor("pages", pages, (None,), torch.int32, like=state.slot_of)
    for name in ("wanted", "most", "room"):
        require_tensor(name, getattr(ahead, name), (1,), torch.int32, like=pages)
    require_tensor("count", count, (1,), torch.int32, like=pages)
    require_tensor("frame_of", ahead.frame_of, tuple(state.slot_of.shape), torch.int32, like=pages)
    require_tensor("in_flight", ahead.in_flight, (state.slot_of.numel() + 1,), torch.bool, like=pages)
    require_tensor("cause", ahead.cause, (None,), torch.int32, like=pages)
    require(keep >= 0, f"keep must not be negative, but is {keep}")
    require(ahead.cause.numel() >= state.slots, f"{ahead.cause.numel()} causes of {state.slots} slots")
    if use_kernel(pages):
        from hotset.kernels.prefetch import kernel

        return kernel.begin_ahead(state, pages, ahead, count, keep, why)
    return reference.begin_ahead(state, pages, ahead, count, keep, why)


def commit_ahead(
    state: ResidencyState, pages: torch.Tensor, slots: torch.Tensor, count: torch.Tensor, wasted: torch.Tensor
) -> None:
    """End a flight of begin_ahead in the same step: `count` of `pages` and `slots` become visible.

    Those whose page was loaded on demand meanwhile are dropped, and added to `wasted` ([1] int64). Nothing waits for
    the host. Raises ValueError on tensors that do not fit.
    """
    require_tensor("pages", pages, (None,), torch.int32, like=state.slot_of)
    require_tensor("slots", slots, tuple(pages.shape), torch.int32, like=pages)
    require_tensor("count", count, (1,), torch.int32, like=pages)
    require_tensor("wasted", wasted, (1,), torch.int64, like=pages)
    if use_kernel(pages):
        from hotset.kernels.prefetch import kernel

        kernel.commit_ahead(state, pages, slots, count, wasted)
        return
    reference.commit_ahead(state, pages, slots, count, wasted)
