"""Held slots: given up coldest first, and passed over by every kernel until they are given back or lent."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from hotset.kernels.held import give_back_slots, held_level, hold_slots, lend_slots
from hotset.kernels.prefetch import begin_prefetch
from hotset.kernels.reclaim import effective_value, reclaim
from hotset.kernels.resolve import resolve
from hotset.kernels.state import FREE, HELD, LIVE, PINNED, RESERVED, ResidencyState
from hotset.runtime.integrity import check_ring, check_slots

Make = Callable[..., ResidencyState]


@pytest.fixture
def state(random_state: Make) -> ResidencyState:
    return random_state(3, slots=100, groups=63, reserve=20, free=30)


def test_free_slots_go_first_then_the_reserve_then_the_coldest(state: ResidencyState) -> None:
    cold, kind = effective_value(state, "score-ema"), state.state.clone()
    assert hold_slots(state, 5, "score-ema") == 5
    assert bool((kind[state.state == HELD] == FREE).all())
    free, reserved = int((kind == FREE).sum()), int((kind == RESERVED).sum())
    hold_slots(state, free + reserved + 7 - 5, "score-ema")
    live = kind == LIVE
    lost = live & (state.state == HELD)
    assert int(lost.sum()) == 7
    assert cold[lost].min() > cold[live & ~lost].max()
    check_slots(state)
    check_ring(state)


def test_pinned_slots_are_never_held(state: ResidencyState) -> None:
    pinned = int((state.state == PINNED).sum())
    assert hold_slots(state, 1000, "lru") == 100 - pinned
    assert give_back_slots(state, 1000) == 100 - pinned
    assert int((state.state == FREE).sum()) == 100 - pinned
    check_slots(state)
    check_ring(state)


def test_no_kernel_takes_a_held_slot(
    device: str, state: ResidencyState, to: Callable[[ResidencyState, str], ResidencyState]
) -> None:
    """Also not where its ring still names it: half of the reserve is held before the kernels run."""
    hold_slots(state, int((state.state == FREE).sum()) + 10, "score-ema")
    held = state.state == HELD
    state = to(state, device)
    pages = torch.nonzero(state.slot_of < 0).flatten()[:30].int()
    generations = state.generation[pages.long() // state.lanes].long()
    reclaim(state, low=25, high=40, policy="score-ema")
    begin_prefetch(state, pages[:10].contiguous(), generations[:10].contiguous(), keep=2)
    done = resolve(state, pages[10:].contiguous(), "score-ema")
    assert bool((done.slots >= 0).all())
    assert torch.equal(state.state.cpu() == HELD, held)
    check_slots(to(state, "cpu"))
    check_ring(to(state, "cpu"))


def test_lent_slots_are_pinned_and_what_is_short_is_left_to_resolve(state: ResidencyState) -> None:
    hold_slots(state, 4, "lru")
    pages = torch.nonzero(state.slot_of < 0).flatten()[:6]
    slots = lend_slots(state, pages)
    assert slots.numel() == 4
    assert bool((state.state[slots] == PINNED).all())
    assert torch.equal(state.page_of[slots].long(), pages[:4])
    assert held_level(state) == 0
    check_slots(state)
