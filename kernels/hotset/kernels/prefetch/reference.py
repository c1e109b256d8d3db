"""Torch reference of prefetch: reserve slots for pages in flight, and make them visible at a safe point."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from hotset.kernels.reserve import evict_pages, pop_reserve, reserve_level
from hotset.kernels.state import FILLING, FREE, LIVE, NEVER, ResidencyState

if TYPE_CHECKING:
    from hotset.kernels.prefetch import Ahead

REASONS = ("out_of_range", "stale_generation", "resident", "in_flight", "reserve_low")


def begin_prefetch(
    state: ResidencyState, pages: torch.Tensor, generations: torch.Tensor, *, keep: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Start bringing in `pages` ([n] int32 physical, best first; `generations` [n] int64), leaving `keep` reserved.

    Returns (pages [m] int32, slots [m] int32, counts [1 + len(REASONS)] int64: begun, then rejected by the
    first reason that holds). The slots are FILLING and invisible until commit_prefetch.
    """
    reason = torch.full((pages.numel(),), -1, dtype=torch.int64)
    inside = (pages >= 0) & (pages < state.slot_of.numel())
    reason[~inside] = 0
    page = torch.where(inside, pages, 0).long()
    _reject(reason, state.generation[page // state.lanes].long() != generations, 1)
    _reject(reason, state.slot_of[page] >= 0, 2)
    in_flight = state.page_of[state.state == FILLING].long()
    if in_flight.numel():
        _reject(reason, torch.isin(page, in_flight), 3)
    good = torch.nonzero(reason < 0).flatten()
    reason[good[_repeated(page[good])]] = 3
    room = max(0, reserve_level(state) - keep)
    good = torch.nonzero(reason < 0).flatten()
    reason[good[room:]] = 4
    begun = page[good[:room]]
    slots = pop_reserve(state, begun.numel())
    evict_pages(state, slots)
    state.page_of[slots] = begun.to(torch.int32)
    state.state[slots] = FILLING
    counts = torch.bincount(reason + 1, minlength=1 + len(REASONS))
    return begun.to(torch.int32), slots.to(torch.int32), counts


def commit_prefetch(
    state: ResidencyState, pages: torch.Tensor, slots: torch.Tensor, generations: torch.Tensor
) -> torch.Tensor:
    """End the flight of `slots` ([m] int32), whose copies have arrived; return which became visible, [m] bool.

    A page that was loaded on demand meanwhile, or whose group was freed, is dropped and its slot is FREE.
    """
    page, slot = pages.long(), slots.long()
    wanted = (state.slot_of[page] < 0) & (state.generation[page // state.lanes].long() == generations)
    live, dropped = slot[wanted], slot[~wanted]
    state.slot_of[page[wanted]] = live.to(torch.int32)
    state.state[live] = LIVE
    state.prefetched[live] = True
    state.last_used[live] = state.tick
    state.value_until[live] = NEVER
    state.page_of[dropped] = -1
    state.state[dropped] = FREE
    return wanted


def begin_ahead(
    state: ResidencyState, pages: torch.Tensor, ahead: Ahead, count: torch.Tensor, keep: int, why: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """See the public function."""
    entries = pages[: min(int(ahead.wanted), int(ahead.most), int(ahead.room))]
    entries = entries[ahead.frame_of[entries.long()] >= 0]
    now = state.generation[entries.long() // state.lanes].long()
    begun, slots, _ = begin_prefetch(state, entries, now, keep=keep)
    ahead.cause[slots.long()] = why
    count.fill_(begun.numel())
    behind = (0, pages.numel() - begun.numel())
    return torch.nn.functional.pad(begun, behind), torch.nn.functional.pad(slots, behind)


def commit_ahead(
    state: ResidencyState, pages: torch.Tensor, slots: torch.Tensor, count: torch.Tensor, wasted: torch.Tensor
) -> None:
    """See the public function."""
    page, slot = pages[: int(count)], slots[: int(count)]
    wasted += (~commit_prefetch(state, page, slot, state.generation[page.long() // state.lanes].long())).sum()


def _reject(reason: torch.Tensor, where: torch.Tensor, code: int) -> None:
    reason[where & (reason < 0)] = code


def _repeated(page: torch.Tensor) -> torch.Tensor:
    """Marks every entry that equals an earlier one."""
    ordered, order = torch.sort(page, stable=True)
    again = torch.zeros_like(page, dtype=torch.bool)
    again[order[1:]] = ordered[1:] == ordered[:-1]
    return again
