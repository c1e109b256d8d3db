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


def pairs(lost: torch.Tensor, gained: torch.Tensor, count: int) -> list[tuple[int, int]]:
    return sorted(zip(lost[:count].tolist(), gained[:count].tolist(), strict=True))


def test_looks_agree_with_the_reference(device: str, random_state: MakeState, to: Move) -> None:
    state = random_state(2, slots=SLOTS, groups=900, reserve=40, free=60)
    seen = [torch.full((SLOTS,), -1, dtype=torch.int32, device=where) for where in ("cpu", device)]
    for moved in (300, 0, 1700):
        move_pages(state, moved) if moved else None
        expected, found = (
            [torch.full((SLOTS,), -7, dtype=torch.int32, device=where) for _ in range(2)]
            + [torch.full((3,), 9, dtype=torch.int64, device=where)]
            for where in ("cpu", device)
        )
        reference.find_changes(state, seen[0], *expected)
        find_changes(to(state, device), seen[1], *found)
        assert found[2].tolist() == expected[2].tolist()
        assert found[2].tolist()[1:] == [int((state.state == kind).sum()) for kind in (RESERVED, FREE)]
        count = int(expected[2][0])
        assert count == 0 if not moved else count > moved // 2
        assert pairs(found[0], found[1], count) == pairs(expected[0], expected[1], count)
        assert bool((found[0][count:] == -7).all())
        assert torch.equal(seen[0], seen[1].cpu())


@pytest.mark.parametrize("most", [0, 100])
def test_what_does_not_fit_is_counted_and_seen(device: str, most: int, random_state: MakeState, to: Move) -> None:
    state = to(random_state(3, slots=SLOTS, groups=900), device)
    seen = torch.full((SLOTS,), -1, dtype=torch.int32, device=device)
    lost, gained = (torch.full((most,), -7, dtype=torch.int32, device=device) for _ in range(2))
    counts = torch.zeros(3, dtype=torch.int64, device=device)
    find_changes(state, seen, lost, gained, counts)
    assert int(counts[0]) == SLOTS
    assert bool((lost == -1).all())
    assert bool((gained >= 0).all())
    find_changes(state, seen, lost, gained, counts)
    assert int(counts[0]) == 0
