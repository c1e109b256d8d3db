"""prefetch: kernels against reference, flights in order, and what becomes of them at a safe point."""

from collections.abc import Callable

import pytest
import torch

from hotset.kernels.prefetch import Listed, begin_prefetch, commit_prefetch, mark_in_flight, reference
from hotset.kernels.release import release
from hotset.kernels.resolve import resolve
from hotset.kernels.state import FILLING, FREE, LIVE, RESERVED, ResidencyState

MakeState = Callable[..., ResidencyState]
Move = Callable[[ResidencyState, str], ResidencyState]
Same = Callable[[ResidencyState, ResidencyState], None]


def _wish(state: ResidencyState, n: int) -> tuple[torch.Tensor, torch.Tensor]:
    pages = torch.randint(-20, state.slot_of.numel() + 20, (n,), dtype=torch.int32)
    groups = (pages // state.lanes).clamp(0, state.generation.numel() - 1).long()
    return pages, state.generation[groups].long() - (torch.rand(n) < 0.1).long()


# 2,000 entries take several blocks, in order; more of them than there are pages, so that many repeat.
@pytest.mark.parametrize(("n", "keep"), [(1, 0), (63, 10), (2000, 25)])
def test_begin_and_commit_equal_reference(
    n: int, keep: int, device: str, random_state: MakeState, to: Move, same_state: Same
) -> None:
    state = random_state(n, slots=400, groups=200, reserve=120)
    for _ in range(2):
        pages, generations = _wish(state, n)
        theirs, ours = state.clone(), to(state, device)
        expected = reference.begin_prefetch(theirs, pages, generations, keep=keep)
        begun, slots, counts = begin_prefetch(ours, pages.to(device), generations.to(device), keep=keep)
        m = int(counts[0])
        same_state(to(ours, "cpu"), theirs)
        assert counts.tolist() == expected[2].tolist()
        assert begun[:m].tolist() == expected[0].tolist()
        assert torch.equal(ours.page_of[slots[:m].long()], begun[:m])
        state = to(ours, "cpu")
    if n == 2000:
        assert bool((counts[1:5] > 0).all()), "the case must show the reasons for a rejection"


@pytest.mark.parametrize(("n", "most"), [(63, 63), (2000, 1500), (63, 0)])
def test_with_marks_it_begins_the_same(
    n: int, most: int, device: str, random_state: MakeState, to: Move, same_state: Same
) -> None:
    """Marks from before the first of three calls, as no page is asked for twice."""
    state = random_state(n, slots=400, groups=200, reserve=120)
    flying = torch.zeros(state.slot_of.numel(), dtype=torch.bool)
    flying[state.page_of[state.state == FILLING].long()] = True
    ours, counted = to(state, device), torch.tensor([most], dtype=torch.int32)
    marks = torch.ones(state.slot_of.numel() + 1, dtype=torch.bool, device=device)
    mark_in_flight(ours, marks)
    assert torch.equal(marks[:-1].cpu(), flying)
    for turn in range(3):
        pages, generations = _wish(state, n)
        pages[(pages % 3 != turn) | (torch.arange(n) >= most)] = -1
        theirs = to(ours, "cpu").clone()
        expected = reference.begin_prefetch(theirs, pages[:most], generations[:most], keep=10)
        begun, slots, counts = begin_prefetch(
            ours, pages.to(device), generations.to(device), keep=10, listed=Listed(marks, counted.to(device))
        )
        m = int(counts[0])
        same_state(to(ours, "cpu"), theirs)
        assert counts.tolist() == expected[2].tolist()
        assert begun[:m].tolist() == expected[0].tolist()
        assert torch.equal(ours.page_of[slots[:m].long()], begun[:m])
    assert int((ours.state == FILLING).sum()) >= int(flying.sum()) + (most > 0)


def test_the_best_entries_are_begun_and_the_reserve_keeps_its_share(
    device: str, random_state: MakeState, to: Move
) -> None:
    state = to(random_state(1, slots=100, groups=50, reserve=30), device)
    absent = torch.nonzero(state.slot_of < 0).flatten()[:40].int()
    generations = state.generation[(absent // 6).long()].long()
    begun, slots, counts = begin_prefetch(state, absent, generations, keep=20)
    assert counts.tolist() == [10, 0, 0, 0, 0, 30]
    assert torch.equal(begun[:10], absent[:10])
    assert int((state.state == RESERVED).sum()) == 20
    assert bool((state.state[slots[:10].long()] == FILLING).all())
    _, _, counts = begin_prefetch(state, absent[:10], generations[:10], keep=0)
    assert counts.tolist() == [0, 0, 0, 0, 10, 0]


def test_commit_shows_pages_but_drops_the_stale_and_the_overtaken(
    device: str, random_state: MakeState, to: Move, same_state: Same
) -> None:
    state = to(random_state(2, slots=100, groups=50, reserve=60), device)
    absent = torch.nonzero(state.slot_of < 0).flatten()[::7][:9].int()
    generations = state.generation[(absent // 6).long()].long()
    begun, slots, _ = begin_prefetch(state, absent, generations, keep=0)
    begun, slots = begun[:9], slots[:9]
    assert bool((state.slot_of[absent.long()] < 0).all()), "in flight is not visible"
    resolve(state, begun[:2].contiguous(), "lru")
    release(state, torch.unique(begun[2:3].long() // 6))
    theirs = to(state, "cpu")
    visible = commit_prefetch(state, begun, slots, generations)
    expected = reference.commit_prefetch(theirs, begun.cpu(), slots.cpu(), generations.cpu())
    assert visible.tolist() == expected.tolist()
    assert not visible[:3].any()
    assert bool(visible[-3:].all())
    same_state(to(state, "cpu"), theirs)
    assert bool((state.state[slots[visible].long()] == LIVE).all())
    assert bool((state.state[slots[~visible].long()] == FREE).all())
    assert bool(state.prefetched[slots[visible].long()].all())


def test_release_equals_reference(device: str, random_state: MakeState, to: Move, same_state: Same) -> None:
    from hotset.kernels.release import reference as release_reference

    state = random_state(3, slots=1000, groups=300, reserve=100)
    groups = torch.randperm(300)[:63]
    theirs, ours = state.clone(), to(state, device)
    release_reference.release(theirs, groups)
    release(ours, groups.to(device))
    same_state(to(ours, "cpu"), theirs)


def test_wrong_arguments_are_named(random_state: MakeState) -> None:
    state = random_state(4, slots=63, groups=50)
    pages = torch.zeros(3, dtype=torch.int32)
    with pytest.raises(ValueError, match="keep must not be negative"):
        begin_prefetch(state, pages, pages.long(), keep=-1)
    with pytest.raises(ValueError, match=r"groups must be torch\.int64"):
        release(state, pages)
