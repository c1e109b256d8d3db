"""Slots that the hot set does without: given up at a step boundary, lent to tails, taken back. Rare, so plain torch.

A HELD slot holds no page and is neither free nor a victim, so that every kernel passes over it. Its row is what
a smaller hot set leaves to the tails of new sequences.
"""

from __future__ import annotations

import torch

from hotset.kernels.reclaim.reference import effective_value
from hotset.kernels.reserve import evict_pages
from hotset.kernels.state import FREE, HELD, LIVE, NEVER, PINNED, RESERVED, ResidencyState


def held_level(state: ResidencyState) -> int:
    """Slots that are held."""
    return int((state.state == HELD).sum())


def hold_slots(state: ResidencyState, count: int, policy: str) -> int:
    """Hold up to `count` more slots and evict what they hold; return how many. Only between steps.

    Free slots go first, then reserved and then live ones, worst value first. PINNED and FILLING slots are never taken,
    so fewer may be held than asked for; ask again when they have been sealed or have arrived.
    """
    done = 0
    for kind in (FREE, RESERVED, LIVE):
        slots = torch.nonzero(state.state == kind).flatten()
        wanted = min(count - done, slots.numel())
        if kind != FREE and wanted < slots.numel():
            slots = slots[torch.topk(effective_value(state, policy)[slots], wanted).indices]
        evict_pages(state, slots[:wanted])
        state.state[slots[:wanted]] = HELD
        done += wanted
    return done


def give_back_slots(state: ResidencyState, count: int) -> int:
    """Make up to `count` held slots free again; return how many."""
    slots = torch.nonzero(state.state == HELD).flatten()[:count]
    state.state[slots] = FREE
    return slots.numel()


def lend_slots(state: ResidencyState, pages: torch.Tensor) -> torch.Tensor:
    """Pin held slots for the first of `pages` ([n] int64, none resident) as far as they last; return these slots."""
    slots = torch.nonzero(state.state == HELD).flatten()[: pages.numel()]
    pages = pages[: slots.numel()]
    state.page_of[slots] = pages.to(torch.int32)
    state.slot_of[pages] = slots.to(torch.int32)
    state.state[slots] = PINNED
    state.last_used[slots] = state.tick
    state.value_until[slots] = NEVER
    return slots
