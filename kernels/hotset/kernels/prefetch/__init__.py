"""prefetch: reserve slots for pages in flight, and make them visible at a safe point."""

from __future__ import annotations

from typing import NamedTuple

import torch

from hotset.kernels.dispatch import require, require_tensor, use_kernel
from hotset.kernels.prefetch import compiled, reference
from hotset.kernels.prefetch.compiled import warm_up
from hotset.kernels.prefetch.reference import REASONS
from hotset.kernels.state import ResidencyState

__all__ = [
    "REASONS",
    "Ahead",
    "Begun",
    "begin_ahead",
    "begin_prefetch",
    "commit_ahead",
    "commit_prefetch",
    "warm_up",
]


class Begun(NamedTuple):
    """A flight. On CUDA, where nothing may wait for the device, m is n, and pages and slots are -1 behind counts[0]."""

    pages: torch.Tensor  # [m] int32
    slots: torch.Tensor  # [m] int32, FILLING
    generations: torch.Tensor  # [m] int64, of the pages' groups
    counts: torch.Tensor  # [1 + len(REASONS)] int64: begun, then rejected by the first reason that holds


class Ahead(NamedTuple):
    """What a flight that begins between two layers depends on, all on the device. The first three bound its entries."""

    wanted: torch.Tensor  # [1] int32, entries of the list from there on mean nothing
    most: torch.Tensor  # [1] int32
    room: torch.Tensor  # [1] int32
    frame_of: torch.Tensor  # [P] int32, -1 for pages that are not in host memory
    cause: torch.Tensor  # [S or more] int32, by slot: who caused the prefetch into it


def begin_prefetch(
    state: ResidencyState,
    pages: torch.Tensor,
    generations: torch.Tensor,
    *,
    keep: int,
    frame_of: torch.Tensor | None = None,
    counts: torch.Tensor | None = None,
) -> Begun:
    """Start bringing in `pages` ([n] int32 physical, best first; `generations` [n] int64), leaving `keep` reserved.

    With `frame_of` ([P] int32) pages whose entry is -1 are not stored. With `counts` the counts are added to that. The
    slots are FILLING and invisible until commit_prefetch. Call it between steps only. Nothing waits for the host on
    CUDA. Raises ValueError on arguments that do not fit.
    """
    require_tensor("pages", pages, (None,), torch.int32, like=state.slot_of)
    require_tensor("generations", generations, tuple(pages.shape), torch.int64, like=pages)
    require(keep >= 0, f"keep must not be negative, but is {keep}")
    if frame_of is not None:
        require_tensor("frame_of", frame_of, tuple(state.slot_of.shape), torch.int32, like=pages)
    if counts is None:
        counts = torch.zeros(1 + len(REASONS), dtype=torch.int64, device=pages.device)
    require_tensor("counts", counts, (1 + len(REASONS),), torch.int64, like=pages)
    if use_kernel(pages) and pages.numel():
        from hotset.kernels.prefetch import kernel

        return Begun(*kernel.begin(state, pages, generations, keep, frame_of, counts), counts)
    begun = compiled.begin_prefetch(state, pages, generations, keep=keep, frame_of=frame_of, counts=counts)
    return Begun(*begun, counts)


def commit_prefetch(
    state: ResidencyState,
    pages: torch.Tensor,
    slots: torch.Tensor,
    generations: torch.Tensor,
    wasted: torch.Tensor | None = None,
) -> torch.Tensor:
    """End the flight of `slots` ([m] int32), whose copies have arrived; return which became visible, [m] bool.

    `pages` [m] int32 and `generations` [m] int64 as when the flight began. A page that was loaded on demand
    meanwhile, or whose group was freed, is dropped, its slot is FREE, and it is added to `wasted` ([1] int64). On CUDA
    entries of -1 are skipped. Raises ValueError on arguments that do not fit.
    """
    require_tensor("pages", pages, (None,), torch.int32, torch.int64, like=state.slot_of)
    require_tensor("slots", slots, tuple(pages.shape), torch.int32, torch.int64, like=pages)
    require_tensor("generations", generations, tuple(pages.shape), torch.int64, like=pages)
    if wasted is not None:
        require_tensor("wasted", wasted, (1,), torch.int64, like=pages)
    if use_kernel(pages) and pages.numel():
        from hotset.kernels.prefetch import kernel

        return kernel.commit(state, pages, slots, generations, wasted)
    visible = reference.commit_prefetch(state, pages, slots, generations)
    if wasted is not None:
        wasted += (~visible).sum()
    return visible


def begin_ahead(
    state: ResidencyState, pages: torch.Tensor, ahead: Ahead, count: torch.Tensor, *, keep: int, why: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """As begin_prefetch, between two layers: `pages` ([n] int32 physical, surest first) of a layer that comes later.

    Returns pages and slots, [n] int32 each, of which as many mean something as `count` ([1] int32) is set to. Leaves
    `keep` slots reserved, and writes `why` to the causes of the slots that it takes. Nothing waits for the host.
    Raises ValueError on tensors that do not fit.
    """
    require_tensor("pages", pages, (None,), torch.int32, like=state.slot_of)
    for name in ("wanted", "most", "room"):
        require_tensor(name, getattr(ahead, name), (1,), torch.int32, like=pages)
    require_tensor("count", count, (1,), torch.int32, like=pages)
    require_tensor("frame_of", ahead.frame_of, tuple(state.slot_of.shape), torch.int32, like=pages)
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
