"""changes: kernel against reference over several looks, lists that are too short, and pages that nobody can see."""

from collections.abc import Callable

import pytest
import torch

from hotset.kernels.changes import find_changes, reference
from hotset.kernels.state import FILLING, FREE, LIVE, RESERVED, ResidencyState

MakeState = Callable[..., ResidencyState]
Move = Callable[[ResidencyState, str], ResidencyState]
SLOTS = 2500


def move_pages(state: ResidencyState, count: int) -> None:
    """`count` slots get another page, or none; some of these are still in flight, so that nobody sees them."""
    slots = torch.randperm(state.slots)[:count]
    old = state.page_of[slots].long()
    state.slot_of[old[old >= 0]] = -1
    new = torch.nonzero(state.slot_of < 0).flatten()
    new = new[torch.randperm(new.numel())[:count]]
    state.page_of[slots], state.state[slots] = new.int(), LIVE
    seen = count // 3
    state.slot_of[new[seen:]] = slots[seen:].int()
    state.state[slots[:seen]] = FILLING
    state.page_of[slots[-5:]], state.state[slots[-5:]], state.slot_of[new[-5:]] = -1, FREE, -1


def lists(device: str, most: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    loaded, evicted = (torch.full((most,), -7, dtype=torch.int32, device=device) for _ in range(2))
    return loaded, evicted, torch.full((4,), 9, dtype=torch.int64, device=device)


def memory(state: ResidencyState, device: str) -> tuple[torch.Tensor, torch.Tensor]:
    seen = torch.full((state.slots,), -1, dtype=torch.int32, device=device)
    return seen, torch.zeros(state.slot_of.numel(), dtype=torch.bool, device=device)


def visible(state: ResidencyState) -> set[int]:
    return set(torch.nonzero(state.slot_of >= 0).flatten().tolist())


def test_looks_tell_what_became_visible_and_what_did_not_stay_so(
    device: str, random_state: MakeState, to: Move
) -> None:
    state = random_state(2, slots=SLOTS, groups=900, reserve=40, free=60)
    mine, theirs, before = memory(state, device), memory(state, "cpu"), set[int]()
    for moved in (300, 0, 1700):
        if moved:
            move_pages(state, moved)
        expected, found = lists("cpu", SLOTS), lists(device, SLOTS)
        reference.find_changes(state, *theirs, *expected)
        find_changes(to(state, device), *mine, *found)
        assert found[2].tolist() == expected[2].tolist()
        loaded, evicted, *kept = found[2].tolist()
        assert kept == [int((state.state == kind).sum()) for kind in (RESERVED, FREE)]
        now = visible(state)
        assert set(found[0][:loaded].tolist()) == set(expected[0][:loaded].tolist()) == now - before
        assert set(found[1][:evicted].tolist()) == set(expected[1][:evicted].tolist()) == before - now
        assert (loaded, evicted) == (len(now - before), len(before - now))
        assert bool((found[0][loaded:] == -7).all())
        assert all(torch.equal(one.cpu(), two) for one, two in zip(mine, theirs, strict=True))
        before = now
    assert len(before) > SLOTS // 2


def test_a_page_that_went_to_another_slot_is_told_of_by_neither(device: str, random_state: MakeState, to: Move) -> None:
    state = random_state(5, slots=64, groups=50, free=4)
    mine = memory(state, device)
    find_changes(to(state, device), *mine, *lists(device, 64))
    old = int(torch.nonzero(state.state == LIVE)[0])
    new, page = int(torch.nonzero(state.state == FREE)[0]), int(state.page_of[old])
    state.page_of[old], state.state[old] = -1, FREE
    state.page_of[new], state.state[new], state.slot_of[page] = page, LIVE, new
    found = lists(device, 64)
    find_changes(to(state, device), *mine, *found)
    assert found[2].tolist()[:2] == [0, 0]
    assert mine[0][[old, new]].tolist() == [-1, page]


@pytest.mark.parametrize("most", [0, 100])
def test_what_does_not_fit_is_counted_and_seen(device: str, most: int, random_state: MakeState, to: Move) -> None:
    state = to(random_state(3, slots=SLOTS, groups=900), device)
    mine, (loaded, evicted, counts) = memory(state, device), lists(device, most)
    find_changes(state, *mine, loaded, evicted, counts)
    assert counts.tolist()[:2] == [SLOTS, 0]
    assert bool((loaded >= 0).all())
    assert bool((evicted == -7).all())
    find_changes(state, *mine, loaded, evicted, counts)
    assert counts.tolist()[:2] == [0, 0]
