"""Torch reference of the reserve: the ring of slots that misses and prefetches take (see state.py)."""

from __future__ import annotations

import torch

from hotset.kernels.state import RESERVED, ResidencyState


def reserve_level(state: ResidencyState) -> int:
    """Slots that a miss could take now."""
    return int((state.state == RESERVED).sum())


def push_reserve(state: ResidencyState, slots: torch.Tensor) -> None:
    """Reserve `slots` ([m] int64, distinct, FREE or LIVE), in this order."""
    state.state[slots] = RESERVED
    fresh = slots[~state.in_ring[slots]]
    tail = int(state.ring_tail)
    where = (tail + torch.arange(fresh.numel())) % state.slots
    state.ring[where] = fresh.to(torch.int32)
    state.in_ring[fresh] = True
    state.ring_tail += fresh.numel()


def pop_reserve(state: ResidencyState, count: int) -> torch.Tensor:
    """Take up to `count` reserved slots in ring order ([m] int64); rescued entries on the way are dropped.

    The slots stay RESERVED and keep their page; the caller gives them their next state and page.
    """
    head, tail = int(state.ring_head), int(state.ring_tail)
    entries = state.ring[torch.arange(head, tail) % state.slots].long()
    taken = torch.nonzero(state.state[entries] == RESERVED).flatten()[:count]
    if count == 0:
        return taken
    popped = int(taken[-1]) + 1 if taken.numel() == count else entries.numel()
    state.in_ring[entries[:popped]] = False
    state.ring_head += popped
    return entries[taken]


def evict_pages(state: ResidencyState, slots: torch.Tensor) -> None:
    """Unmap whatever pages `slots` ([m] int64) hold and log them as evicted."""
    pages = state.page_of[slots]
    pages = pages[pages >= 0].long()
    state.slot_of[pages] = -1
    state.page_of[slots] = -1
    state.prefetched[slots] = False
    start = int(state.evicted_count)
    room = max(0, min(pages.numel(), state.slots - start))
    state.evicted[start : start + room] = pages[:room].to(torch.int32)
    state.evicted_count += pages.numel()
