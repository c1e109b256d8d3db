"""apply_plan: kernel against reference, and each reason for a rejection."""

from collections.abc import Callable

import pytest
import torch

from hotset.kernels.apply_plan import REASONS, apply_plan, reference
from hotset.kernels.state import FILLING, ResidencyState

MakeState = Callable[..., ResidencyState]
Move = Callable[[ResidencyState, str], ResidencyState]
Same = Callable[[ResidencyState, ResidencyState], None]


def _plan(state: ResidencyState, n: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    pages = torch.randperm(state.slot_of.numel() + 40)[:n].int() - 20
    groups = (pages // state.lanes).clamp(0, state.generation.numel() - 1).long()
    generations = state.generation[groups].long() - (torch.rand(n) < 0.2).long()
    values = torch.randn(n) * 10
    values[torch.rand(n) < 0.05] = torch.nan
    values[torch.rand(n) < 0.05] = torch.inf
    return pages, generations, values


@pytest.mark.parametrize("n", [1, 63, 2000])
def test_kernel_equals_reference(n: int, device: str, random_state: MakeState, to: Move, same_state: Same) -> None:
    state = random_state(n, slots=1500, groups=400, reserve=100)
    filling = torch.nonzero(state.state == 1).flatten()[:30]
    state.slot_of[state.page_of[filling].long()] = -1
    state.state[filling] = FILLING
    state.in_flight[state.page_of[filling].long()] = True
    plan = _plan(state, n)
    theirs, ours = state.clone(), to(state, device)
    expected = reference.apply_plan(theirs, *plan, epoch_tick=80, until_tick=140)
    counts = apply_plan(ours, *(t.to(device) for t in plan), epoch_tick=80, until_tick=140)
    same_state(to(ours, "cpu"), theirs)
    assert counts.tolist() == expected.tolist()
    assert counts.sum() == n
    if n == 2000:
        assert bool((counts > 0).all()), "the case must show every reason"


def test_an_applied_value_lasts_until_its_tick(device: str, random_state: MakeState, to: Move) -> None:
    state = to(random_state(1, slots=63, groups=50), device)
    page = state.page_of[60:61].clone()
    generation = state.generation[(page // 6).long()].long()
    value = torch.tensor([3.5], device=device)
    counts = apply_plan(state, page, generation, value, epoch_tick=100, until_tick=117)
    assert counts.tolist() == [1] + [0] * len(REASONS)
    assert (float(state.value[60]), int(state.value_until[60])) == (3.5, 117)


def test_wrong_arguments_are_named(random_state: MakeState) -> None:
    state = random_state(2, slots=63, groups=50)
    pages = torch.zeros(3, dtype=torch.int32)
    with pytest.raises(ValueError, match=r"generations must be torch\.int64"):
        apply_plan(state, pages, pages, torch.zeros(3), epoch_tick=0, until_tick=0)
