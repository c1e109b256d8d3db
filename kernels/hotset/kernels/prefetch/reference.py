"""Torch reference of prefetch: reserve slots for pages in flight, and make them visible at a safe point."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from hotset.kernels.reserve import evict_pages, pop_reserve, reserve_level
from hotset.kernels.state import FILLING, FREE, LIVE, NEVER, ResidencyState

if TYPE_CHECKING:
    from hotset.kernels.prefetch import Ahead

REASONS = ("not_stored", "out_of_range", "stale_generation", "resident", "in_flight", "reserve_low")


def begin_prefetch(
    state: ResidencyState, pages: torch.Tensor, generations: torch.Tensor, *, keep: int,
    frame_of: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:  # fmt: skip
    """See the public function; (pages [m] int32, slots [m] int32, counts)."""
    reason = torch.full((pages.numel(),), -1, dtype=torch.int64)
    inside = (pages >= 0) & (pages < state.slot_of.numel())
    reason[~inside] = 1
    page = torch.where(inside, pages, 0).long()
    if frame_of is not None:
        _reject(reason, frame_of[page] < 0, 0)
    _reject(reason, state.generation[page // state.lanes].long() != generations, 2)
    _reject(reason, state.slot_of[page] >= 0, 3)
    _reject(reason, state.in_flight[page], 4)
    good = torch.nonzero(reason < 0).flatten()
    reason[good[_repeated(page[good])]] = 4
    room = max(0, reserve_level(state) - keep)
    good = torch.nonzero(reason < 0).flatten()
    reason[good[room:]] = 5
    begun = page[good[:room]]
    slots = pop_reserve(state, begun.numel())
    evict_pages(state, slots)
    state.page_of[slots] = begun.to(torch.int32)
    state.state[slots] = FILLING
    state.in_flight[begun] = True
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
    state.in_flight[page] = False
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
