"""tally: kernels against references, each slot once; and by hand, what three slots of two causes come to."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from hotset.kernels.state import FILLING, ResidencyState
from hotset.kernels.tally import NOBODY, count_unused, count_uses, reference

MakeState = Callable[..., ResidencyState]
Move = Callable[[ResidencyState, str], ResidencyState]


def causes(slots: int, seed: int) -> torch.Tensor:
    torch.manual_seed(seed)
    return torch.randint(NOBODY, 2, (slots,), dtype=torch.int32)


# 63 is a part of a block, 2,000 two blocks; half of the places repeat a slot.
@pytest.mark.parametrize("n", [1, 63, 2000])
def test_uses_equal_reference(n: int, device: str) -> None:
    cause = causes(600, n)
    slots = torch.stack([200 * layer + torch.randint(-1, 200, (n,)) for layer in range(3)]).int()
    slots[slots % 200 == 199] = -1
    prefetched = torch.rand(slots.shape) < 0.5
    mine, used = cause.clone().to(device), torch.ones(4, 5, dtype=torch.int64, device=device)
    count_uses(slots.to(device), prefetched.to(device), mine, used[1:3, 1:4])
    theirs, expected = cause.clone(), torch.ones(4, 5, dtype=torch.int64)
    reference.count_uses(slots, prefetched, theirs, expected[1:3, 1:4])
    assert torch.equal(used.cpu(), expected)
    assert torch.equal(mine.cpu(), theirs)
    assert n == 1 or int(expected.sum()) > expected.numel()


def test_a_slot_counts_once(device: str) -> None:
    cause = torch.tensor([0, 1, 1, NOBODY], dtype=torch.int32, device=device)
    slots = torch.tensor([[0, 2, 2, -1, 2], [1, 1, 3, 3, -1]], dtype=torch.int32, device=device)
    first = torch.tensor([[True, True, True, True, True], [False, False, True, True, True]], device=device)
    used = torch.zeros(2, 2, dtype=torch.int64, device=device)
    for _ in range(2):
        count_uses(slots, first, cause, used)
        assert used.tolist() == [[1, 0], [1, 0]]
        assert cause.tolist() == [NOBODY, 1, NOBODY, NOBODY]


def test_what_is_left_equals_reference(device: str, random_state: MakeState, to: Move) -> None:
    state = random_state(1, slots=2000, groups=900, layers=2, kv_heads=3)
    state.state[(state.page_of >= 0) & (torch.rand(2000) < 0.1)] = FILLING
    cause = causes(2001, 2)
    left, expected = torch.zeros(2, 2, dtype=torch.int64, device=device), torch.zeros(2, 2, dtype=torch.int64)
    count_unused(to(state, device), cause.to(device), left)
    reference.count_unused(state, cause, expected)
    assert torch.equal(left.cpu(), expected)
    assert bool((expected > 0).all())


def test_wrong_arguments_are_named(random_state: MakeState) -> None:
    state = random_state(4, slots=63, groups=50)
    table = torch.zeros(2, 2, dtype=torch.int64)
    with pytest.raises(ValueError, match="62 causes of 63 slots"):
        count_unused(state, causes(62, 0), table)
    with pytest.raises(ValueError, match=r"left must be \[causes, 2\] int64"):
        count_unused(state, causes(63, 0), table.int())
