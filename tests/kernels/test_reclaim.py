"""reclaim: kernel against reference, and who may be a victim."""

from collections.abc import Callable

import pytest
import torch

from hotset.kernels.reclaim import reclaim, reference
from hotset.kernels.state import FILLING, LIVE, PINNED, RESERVED, ResidencyState

MakeState = Callable[..., ResidencyState]
Move = Callable[[ResidencyState, str], ResidencyState]
Same = Callable[[ResidencyState, ResidencyState], None]


def _both(
    state: ResidencyState, low: int, high: int, policy: str, device: str, to: Move, same_state: Same
) -> ResidencyState:
    theirs, ours = state.clone(), to(state, device)
    expected = reference.reclaim(theirs, low=low, high=high, policy=policy)
    done = reclaim(ours, low=low, high=high, policy=policy)
    ours = to(ours, "cpu")
    same_state(ours, theirs)
    assert int(done) == expected
    return ours


@pytest.mark.parametrize("policy", ["score-ema", "lru"])
@pytest.mark.parametrize(("slots", "high"), [(63, 20), (5000, 1234)])
def test_kernel_equals_reference(
    slots: int, high: int, policy: str, device: str, random_state: MakeState, to: Move, same_state: Same
) -> None:
    state = random_state(slots, slots=slots, groups=slots, free=5)
    state.last_used.copy_(torch.randperm(slots).int() - slots)
    # Half the slots have a plan's value, some of them expired, some negative, some beyond all others.
    planned = torch.rand(slots) < 0.5
    state.value[planned] = torch.randn(int(planned.sum())) * 40
    state.value_until[planned] = torch.randint(95, 105, (int(planned.sum()),), dtype=torch.int32)
    after = _both(state, high, high, policy, device, to, same_state)
    assert int((after.state == RESERVED).sum()) == high


def test_above_the_low_watermark_nothing_happens(
    device: str, random_state: MakeState, to: Move, same_state: Same
) -> None:
    state = random_state(1, slots=100, groups=50, reserve=20)
    after = _both(state, 20, 40, "lru", device, to, same_state)
    assert torch.equal(after.state, state.state)
    after = _both(state, 21, 40, "score-ema", device, to, same_state)
    assert int((after.state == RESERVED).sum()) == 40


def test_used_pinned_and_filling_slots_are_never_taken(
    device: str, random_state: MakeState, to: Move, same_state: Same
) -> None:
    state = random_state(2, slots=100, groups=50)
    live = torch.nonzero(state.state == LIVE).flatten()
    state.last_used[live[:40]] = 99
    filling = live[40:50]
    state.slot_of[state.page_of[filling].long()] = -1
    state.state[filling] = FILLING
    state.in_flight[state.page_of[filling].long()] = True
    after = _both(state, 100, 100, "score-ema", device, to, same_state)
    for kind in (PINNED, FILLING):
        assert torch.equal(after.state == kind, state.state == kind)
    assert bool((after.state[live[:40]] == LIVE).all())
    assert int((after.state == RESERVED).sum()) == live.numel() - 50


def test_nothing_to_take(device: str, random_state: MakeState, to: Move, same_state: Same) -> None:
    state = random_state(6, slots=100, groups=50)
    state.last_used.fill_(99)
    after = _both(state, 50, 60, "score-ema", device, to, same_state)
    assert not (after.state == RESERVED).any()


def test_rescued_slots_are_not_pushed_twice(device: str, random_state: MakeState, to: Move, same_state: Same) -> None:
    state = random_state(3, slots=63, groups=50, reserve=20)
    rescued = torch.nonzero(state.state == RESERVED).flatten()[:10]
    state.state[rescued] = LIVE
    state.ema[state.page_of[rescued].long()] = 0.0
    after = _both(state, 30, 30, "score-ema", device, to, same_state)
    assert bool((after.state[rescued] == RESERVED).all())


def test_equal_values_are_taken_up_to_the_watermark(device: str, random_state: MakeState, to: Move) -> None:
    state = random_state(4, slots=2000, groups=1000)
    state.ema.fill_(100.0)
    state.last_used.fill_(50)
    ours = to(state, device)
    assert int(reclaim(ours, low=163, high=163, policy="score-ema")) == 163
    assert int((ours.state == RESERVED).sum()) == 163


def test_wrong_arguments_are_named(random_state: MakeState) -> None:
    state = random_state(5, slots=63, groups=50)
    with pytest.raises(ValueError, match="need 0 <= low <= high <= 63 slots"):
        reclaim(state, low=5, high=64, policy="lru")
    with pytest.raises(ValueError, match="unknown built-in policy"):
        reclaim(state, low=5, high=6, policy="fifo")
