"""decide: kernel and reference against the rule in plain Python, and the threshold at the ends of its range."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from contextlib import nullcontext

import pytest
import torch

from hotset.kernels.decide import decide, join_candidates, least_probability, rescue, write_values
from hotset.kernels.dispatch import interpreting
from hotset.kernels.prefetch import begin_prefetch
from hotset.kernels.state import FILLING, LIVE, RESERVED, ResidencyState
from hotset.protos.lookahead import PROTECTED, SAFE_PROBABILITY, VALUE_UNUSED, VALUE_USED

MakeState = Callable[..., ResidencyState]
Move = Callable[[ResidencyState, str], ResidencyState]


@pytest.fixture(params=["reference", "interpreter", pytest.param("cuda", marks=pytest.mark.gpu)])
def where(request: pytest.FixtureRequest) -> Iterator[str]:
    """The device of the tensors; the implementation is told by the parameter."""
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    if request.param == "interpreter" and os.environ.get("TRITON_INTERPRET") != "1":
        pytest.skip("Triton compiles here, so it cannot interpret as well")
    with interpreting() if request.param == "interpreter" else nullcontext():
        yield "cuda" if request.param == "cuda" else "cpu"


def candidates(state: ResidencyState, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Pages with and without slots, pads and pages out of range among them; sure ones, unsure ones, ties and NaN."""
    pages = torch.randint(-1, state.slot_of.numel() + 2, (count,), dtype=torch.int32)
    probability = torch.round(torch.rand(count) * 20) / 20
    probability[torch.rand(count) < 0.1] = math.nan
    return pages, probability


def plain(
    state: ResidencyState, pages: list[int], probability: list[float], least: float, limit: int
) -> tuple[list[int], int, list[float]]:
    wanted, values = [], []
    for place, (page, sure) in enumerate(zip(pages, probability, strict=True)):
        inside = 0 <= page < state.slot_of.numel()
        here = inside and int(state.slot_of[page]) >= 0
        if inside and not here and sure > least:
            wanted.append((-sure, place, page))
        guarded = here and sure >= PROTECTED
        values.append(VALUE_UNUSED - (VALUE_UNUSED - VALUE_USED) * sure if guarded else math.nan)
    best = [page for _, _, page in sorted(wanted)[:limit]]
    return best + [-1] * (limit - len(best)), len(wanted), values


# 1,000 candidates fill four blocks of 256 but for 24; 63 are a part of one; a threshold that few, some and none pass.
@pytest.mark.parametrize(("count", "limit", "least"), [(1000, 100, 0.3), (63, 63, 0.8), (1000, 7, 0.0), (63, 5, 1.0)])
def test_the_rule(count: int, limit: int, least: float, where: str, random_state: MakeState, to: Move) -> None:
    state = random_state(count, slots=200, groups=100, reserve=20)
    pages, probability = candidates(state, count)
    there = (pages.to(where), probability.to(where), torch.tensor([least], device=where))
    found = decide(to(state, where), *there, limit=limit)
    prefetch, wanted, values = plain(state, pages.tolist(), probability.tolist(), float(torch.tensor(least)), limit)
    assert found.prefetch.tolist() == prefetch
    assert found.wanted.tolist() == [wanted]
    torch.testing.assert_close(found.values.cpu(), torch.tensor(values), equal_nan=True)


def test_whoever_is_likely_is_protected_as_by_values_and_rescue(
    where: str, random_state: MakeState, to: Move
) -> None:  # fmt: skip
    state = to(random_state(4, slots=200, groups=100, reserve=40), where)
    pages, probability = candidates(state, 1000)
    args = (pages.to(where), probability.to(where), torch.tensor([0.5], device=where))
    apart, at_once = to(state, where), to(state, where)
    found = decide(apart, *args, limit=30)
    assert torch.equal(apart.state, state.state), "nothing was to be changed"
    # Two entries of one page may differ, and then either's value counts.
    first = torch.tensor([pages.tolist().index(page) for page in pages.tolist()], device=where)
    same = torch.where(args[0] >= 0, args[1][first], args[1])
    found = decide(apart, args[0], same, args[2], limit=30)
    write_values(apart, args[0], found.values, steps=2)
    rescue(apart, args[0], found.values)
    decide(at_once, args[0], same, args[2], limit=30, protect=2)
    for name in ("state", "value", "value_until"):
        assert torch.equal(getattr(at_once, name), getattr(apart, name)), name
        assert not torch.equal(getattr(at_once, name), getattr(state, name)), name


def test_nothing_is_known_of_a_sequence_that_has_just_begun(where: str, random_state: MakeState, to: Move) -> None:
    """Three sequences of 40 candidates; all of the second count as 0. The count goes where it is told to."""
    state = to(random_state(5, slots=200, groups=100, reserve=40), where)
    pages, probability = (part.to(where) for part in candidates(state, 120))
    least, count = torch.tensor([0.0], device=where), torch.zeros(1, dtype=torch.int32, device=where)
    unknown = torch.tensor([0, 1, 0], dtype=torch.int32, device=where)
    found = decide(state, pages, probability, least, limit=120, unknown=unknown, count=count)
    without = probability.clone()
    without[40:80] = 0
    expected = decide(state, pages, without, least, limit=120)
    assert found.prefetch.tolist() == expected.prefetch.tolist()
    torch.testing.assert_close(found.values, expected.values, equal_nan=True)
    assert count.tolist() == found.wanted.tolist() == expected.wanted.tolist()
    assert count.item() < decide(state, pages, probability, least, limit=120).wanted.item()


def test_what_is_decided_can_be_begun(where: str, random_state: MakeState, to: Move) -> None:
    state = to(random_state(1, slots=200, groups=100, reserve=40), where)
    pages, probability = candidates(state, 1000)
    least = torch.tensor([0.5], device=where)
    found = decide(state, pages.to(where), probability.to(where), least, limit=30)
    chosen = found.prefetch.clamp(min=0).long()
    generations = state.generation[chosen // state.lanes].long()
    counts = begin_prefetch(state, found.prefetch, generations, keep=0).counts
    # Entries that repeat a page are the only ones that begin_prefetch has to drop.
    assert int(counts[0]) == len(set(found.prefetch.tolist()) - {-1})


def test_values_reach_the_slots(where: str, random_state: MakeState, to: Move) -> None:
    state = random_state(2, slots=200, groups=100)
    pages = torch.randperm(state.slot_of.numel())[:300].int()
    values = torch.randn(300)
    values[::7], values[::11], pages[::13] = math.nan, math.inf, -1
    held = state.page_of[state.page_of >= 0][:5]
    flying = state.slot_of[held.long()].long()
    state.state[flying] = FILLING
    before, after = state.clone(), to(state, where)
    write_values(after, pages.to(where), values.to(where), steps=3)
    expected, until = before.value.clone(), before.value_until.clone()
    for page, value in zip(pages.tolist(), values.tolist(), strict=True):
        slot = int(before.slot_of[page]) if page >= 0 else -1
        if slot >= 0 and math.isfinite(value) and int(before.state[slot]) != FILLING:
            expected[slot], until[slot] = value, int(before.tick) + 3 * before.ticks_per_step
    assert torch.equal(after.value.cpu(), expected)
    assert torch.equal(after.value_until.cpu(), until)
    assert not torch.equal(expected, before.value)


def test_whoever_is_expected_leaves_the_reserve(where: str, random_state: MakeState, to: Move) -> None:
    state = random_state(3, slots=200, groups=100, reserve=40)
    pages, values = candidates(state, 1000)
    named = [p for p, v in zip(pages.tolist(), values.tolist(), strict=True) if math.isfinite(v)]
    slots = {int(state.slot_of[page]) for page in named if 0 <= page < state.slot_of.numel()} - {-1}
    before = state.state.tolist()
    expected = [LIVE if slot in slots and kind == RESERVED else kind for slot, kind in enumerate(before)]
    assert before.count(RESERVED) > expected.count(RESERVED) > 0
    there = to(state, where)
    rescue(there, pages.to(where), values.to(where))
    assert there.state.tolist() == expected


def test_joined_lists_name_a_page_once(where: str) -> None:
    torch.manual_seed(0)
    ranked = torch.stack([torch.randperm(100)[:40] for _ in range(6)]).int().view(2, 3, 40)
    recent = torch.stack([torch.randperm(100)[:21] for _ in range(6)]).int().view(2, 3, 21)
    ranked[..., 37:], recent[..., 3] = -1, -1
    joined = join_candidates(ranked.to(where), recent.to(where)).cpu()
    assert torch.equal(joined[..., :40], ranked)
    for first, more, found in zip(ranked.view(6, -1), recent.view(6, -1), joined.view(6, -1), strict=True):
        known = first.tolist()
        assert found[40:].tolist() == [-1 if page in known else page for page in more.tolist()]


@pytest.mark.parametrize(
    ("budget", "utilisation", "expected"),
    [
        (0.3, 0.0, 0.3),
        (0.1, 0.0, 0.2),
        (0.1, 0.5, 0.4),
        (0.1, 0.9, 2.0),
        (0.1, 1.0, math.inf),
        (0.1, 7.0, math.inf),
        (0.3, -1.0, 0.3),
        (0.3, math.nan, 0.3),
        (math.nan, 0.0, SAFE_PROBABILITY),
        (-3.0, 0.0, SAFE_PROBABILITY),
        (17.0, 0.0, SAFE_PROBABILITY),
    ],
)
def test_threshold(budget: float, utilisation: float, expected: float) -> None:
    """A page takes 2 us of the link and saves 10."""
    found = least_probability(torch.tensor([budget]), torch.tensor([utilisation]), link_us=2.0, saved_us=10.0)
    assert float(found) == pytest.approx(expected)


def test_wrong_arguments_are_named(random_state: MakeState) -> None:
    state = random_state(3, slots=50, groups=20)
    pages, one = torch.zeros(5, dtype=torch.int32), torch.ones(1)
    with pytest.raises(ValueError, match="limit 6 of 5 candidates"):
        decide(state, pages, torch.zeros(5), one, limit=6)
    with pytest.raises(ValueError, match="5 candidates are not of 2 sequences"):
        decide(state, pages, torch.zeros(5), one, limit=5, unknown=pages[:2])
    with pytest.raises(ValueError, match="saved_us > 0"):
        least_probability(one, one, link_us=1.0, saved_us=0.0)
    with pytest.raises(ValueError, match="a step or more"):
        write_values(state, pages, torch.zeros(5), steps=0)
