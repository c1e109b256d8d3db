"""check_integrity: the invariants of DESIGN.md, as assertions over the whole residency state."""

from __future__ import annotations

import torch

from hotset.kernels.state import FILLING, FREE, HELD, LIVE, PINNED, RESERVED, ResidencyState
from hotset.runtime.groups import GroupTable, Sequence
from hotset.runtime.residency import ResidencyManager


def check_integrity(manager: ResidencyManager, groups: GroupTable, sequences: list[Sequence], page_size: int) -> None:
    """Raise AssertionError naming the first invariant that does not hold. Call it between operations."""
    groups.check_integrity(sequences)
    manager.backing.check_integrity()
    manager.check_mirrors()
    state = manager.state.to("cpu")
    check_slots(state)
    check_ring(state)
    _check_pages(manager, state, sequences, page_size)


def check_slots(state: ResidencyState) -> None:
    """slot_of and page_of are inverse, up to prefetches in flight; every slot is in exactly one known state."""
    mapped = torch.nonzero(state.slot_of >= 0).flatten()
    slots = state.slot_of[mapped].long()
    assert torch.unique(slots).numel() == slots.numel(), "two pages share a slot"
    assert bool((state.page_of[slots] == mapped).all()), "page_of is not the inverse of slot_of"
    assert bool((state.state <= HELD).all()), "a slot is in an unknown state"
    backed = torch.zeros(state.slots, dtype=torch.bool)
    backed[slots] = True
    kind = state.state
    unseen = (kind == FREE) | (kind == FILLING) | (kind == HELD)
    assert not bool((backed & unseen).any()), "a free, filling or held slot is visible"
    assert bool(backed[(kind == LIVE) | (kind == PINNED)].all()), "a live or pinned slot has no page"
    assert bool((state.page_of[(kind == FREE) | (kind == HELD)] < 0).all()), "a free or held slot names a page"
    assert bool((state.page_of[kind == FILLING] >= 0).all()), "a filling slot names no page"
    flying = torch.zeros_like(state.in_flight)
    flying[state.page_of[kind == FILLING].long()] = True
    assert torch.equal(flying, state.in_flight), "in_flight are not the pages of the filling slots"
    assert int(flying.sum()) == int((kind == FILLING).sum()), "two filling slots wait for one page"
    reserved = kind == RESERVED
    assert bool((backed[reserved] == (state.page_of[reserved] >= 0)).all()), "a reserved slot's page is half mapped"


def check_ring(state: ResidencyState) -> None:
    """The ring names no slot twice, names every reserved slot, and agrees with in_ring."""
    head, tail = int(state.ring_head), int(state.ring_tail)
    assert 0 <= tail - head <= state.slots, "the ring has overrun"
    entries = state.ring[torch.arange(head, tail) % state.slots].long()
    assert torch.unique(entries).numel() == entries.numel(), "a slot stands in the ring twice"
    named = torch.zeros(state.slots, dtype=torch.bool)
    named[entries] = True
    assert bool((named == state.in_ring).all()), "in_ring disagrees with the ring"
    assert bool(named[state.state == RESERVED].all()), "a reserved slot is not in the ring"


def _check_pages(manager: ResidencyManager, state: ResidencyState, sequences: list[Sequence], page_size: int) -> None:
    stored = torch.zeros(state.slot_of.numel(), dtype=torch.bool)
    tails = torch.zeros_like(stored)
    for sequence in sequences:
        full = sequence.length // page_size
        pages = manager.pages_of(torch.tensor(sequence.held, dtype=torch.int64))
        stored[pages[:full]] = True
        if sequence.parked is None:
            tails[pages[full:]] = True
        else:
            assert bool((state.slot_of[pages[full:]] < 0).all()), "the tail of a paused sequence has a slot"
    slots = state.slot_of[tails].long()
    assert bool((slots >= 0).all()), "a tail page has no slot"
    assert bool((state.state[slots] == PINNED).all()), "a tail page is not pinned"
    assert int((state.state == PINNED).sum()) == slots.numel(), "a slot is pinned that holds no tail"
    everything = torch.arange(stored.numel())
    assert bool((manager.backing.has(everything) == stored).all()), "sealed pages and stored pages differ"
