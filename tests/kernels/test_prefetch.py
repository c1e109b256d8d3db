"""prefetch: kernels against reference, flights in order, and what becomes of them at a safe point."""

from collections.abc import Callable

import pytest
import torch

from hotset.kernels.prefetch import (
    Ahead,
    begin_ahead,
    begin_prefetch,
    commit_ahead,
    commit_prefetch,
    reference,
)
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


def _frames(state: ResidencyState) -> torch.Tensor:
    """One page in five has none."""
    pages = state.slot_of.numel()
    return torch.where(torch.rand(pages) < 0.2, -1, torch.arange(pages)).int()


# 2,000 entries take several blocks, in order; more of them than there are pages, so that many repeat.
@pytest.mark.parametrize(("n", "keep", "stored"), [(1, 0, False), (63, 10, True), (2000, 25, False), (2000, 25, True)])
def test_it_begins_as_the_reference(
    n: int, keep: int, stored: bool, device: str, random_state: MakeState, to: Move, same_state: Same
) -> None:
    state = random_state(n, slots=400, groups=200, reserve=120)
    for _ in range(2):
        pages, generations = _wish(state, n)
        frames = _frames(state) if stored else None
        theirs, ours = state.clone(), to(state, device)
        expected = reference.begin_prefetch(theirs, pages, generations, keep=keep, frame_of=frames)
        counts = torch.ones(7, dtype=torch.int64, device=device)
        begun = begin_prefetch(
            ours, pages.to(device), generations.to(device), keep=keep, counts=counts,
            frame_of=None if frames is None else frames.to(device),
        )  # fmt: skip
        same_state(to(ours, "cpu"), theirs)
        assert begun.counts is counts
        assert (counts - 1).tolist() == expected[2].tolist()
        m = int(expected[2][0])
        assert begun.pages[:m].tolist() == expected[0].tolist()
        assert bool((begun.pages[m:] == -1).all() and (begun.slots[m:] == -1).all())
        assert torch.equal(ours.page_of[begun.slots[:m].long()], begun.pages[:m])
        assert torch.equal(begun.generations[:m].cpu(), theirs.generation[expected[0].long() // 6].long())
        state = to(ours, "cpu")
    assert ours.scratch[40:42].tolist() == [0, 0], "the counters must be as the next call needs them"
    if n == 2000:
        assert bool((expected[2][1 + (not stored) : 6] > 0).all()), "the case must show the reasons for a rejection"


@pytest.mark.parametrize(("n", "keep"), [(0, 0), (1, 0), (63, 10), (2000, 25), (63, 500)])
def test_compiled_it_begins_as_the_reference(
    n: int, keep: int, random_state: MakeState, same_state: Same
) -> None:  # fmt: skip
    """Without `device`: as a CPU decodes. The ring holds slots that were rescued, and the log gets full."""
    theirs = random_state(n, slots=400, groups=200, reserve=120)
    reserved = torch.nonzero(theirs.state == RESERVED).flatten()
    theirs.state[reserved[::7]] = LIVE
    theirs.evicted_count.fill_(theirs.slots - 20)
    ours = theirs.clone()
    for _ in range(2):
        pages, generations = _wish(theirs, n)
        frames = _frames(theirs)
        expected = reference.begin_prefetch(theirs, pages, generations, keep=keep, frame_of=frames)
        found = begin_prefetch(ours, pages, generations, keep=keep, frame_of=frames)
        assert [p.tolist() for p in (found.pages, found.slots, found.counts)] == [p.tolist() for p in expected]
        same_state(ours, theirs)
        for name in ("page_of", "state", "ring_head", "evicted", "evicted_count", "in_ring", "prefetched"):
            assert torch.equal(getattr(ours, name), getattr(theirs, name)), name
    if n == 2000:
        assert bool((expected[2][1:6] > 0).all()), "the case must show the reasons for a rejection"
        assert int(ours.evicted_count) > ours.slots, "the log must overflow"


# Whichever of them bounds it: what is wanted, the layer's limit, the room, or the reserve. 2,000 fill two blocks.
@pytest.mark.parametrize(("n", "wanted", "most", "room", "keep"), [
    (63, 40, 63, 63, 0), (63, 63, 30, 63, 10), (63, 63, 63, 20, 10), (2000, 1500, 1600, 1700, 30), (63, 0, 63, 63, 0),
    (63, 63, 63, 63, 200),
])  # fmt: skip
def test_between_layers_it_begins_and_ends_as_the_reference(
    n: int, wanted: int, most: int, room: int, keep: int, device: str, random_state: MakeState, to: Move,
    same_state: Same,
) -> None:  # fmt: skip
    """Three layers in turn, whose flights are under way together; one page in five has no frame, and some repeat."""
    state = random_state(n + keep, slots=400, groups=200, reserve=150)
    pages, frames = state.slot_of.numel(), _frames(state)
    theirs, ours = state.clone(), to(state, device)
    causes = [torch.full((state.slots + 1,), -1, dtype=torch.int32, device=where) for where in ("cpu", device)]
    lost = [torch.zeros(1, dtype=torch.int64, device=where) for where in ("cpu", device)]
    flights = []
    for turn in range(3):
        wish = torch.randint(0, pages // 3, (n,), dtype=torch.int32) * 3 + turn
        found = []
        for there, where, cause in zip((theirs, ours), ("cpu", device), causes, strict=True):
            bounds = torch.tensor([[wanted], [most], [room]], dtype=torch.int32, device=where)
            count = torch.full((1,), -1, dtype=torch.int32, device=where)
            ahead = Ahead(bounds[0], bounds[1], bounds[2], frames.to(where), cause)
            begin = begin_ahead if there is ours else reference.begin_ahead
            found.append((*begin(there, wish.to(where), ahead, count, keep=keep, why=7), count))
        same_state(to(ours, "cpu"), theirs)
        m = int(found[0][2])
        assert int(found[1][2]) == m
        assert found[1][0][:m].tolist() == found[0][0][:m].tolist()
        assert torch.equal(ours.page_of[found[1][1][:m].long()], found[1][0][:m])
        flights.append(found)
    assert (causes[1] == 7).sum() == (causes[0] == 7).sum() == (theirs.state == FILLING).sum()
    assert ours.scratch[40:42].tolist() == [0, 0], "the counters must be as the next call needs them"
    # Some pages are loaded on demand meanwhile.
    overtaken = flights[0][0][0][: int(flights[0][0][2])][::3].contiguous()
    for there in (theirs, ours):
        # By values, which are distinct: ages are not, and of equal ones either may go.
        resolve(there, overtaken.to(there.slot_of.device), "score-ema")
    for found in flights:
        reference.commit_ahead(theirs, *found[0], lost[0])
        commit_ahead(ours, *found[1], lost[1])
        same_state(to(ours, "cpu"), theirs)
    assert lost[1].tolist() == lost[0].tolist() == [len(overtaken)]
    assert (wanted == 0 or keep == 200) == (int(flights[0][0][2]) == 0), "the case must show what it is for"


def test_the_best_entries_are_begun_and_the_reserve_keeps_its_share(
    device: str, random_state: MakeState, to: Move
) -> None:
    state = to(random_state(1, slots=100, groups=50, reserve=30), device)
    absent = torch.nonzero(state.slot_of < 0).flatten()[:40].int()
    generations = state.generation[(absent // 6).long()].long()
    begun, slots, _, counts = begin_prefetch(state, absent, generations, keep=20)
    assert counts.tolist() == [10, 0, 0, 0, 0, 0, 30]
    assert torch.equal(begun[:10], absent[:10])
    assert int((state.state == RESERVED).sum()) == 20
    assert bool((state.state[slots[:10].long()] == FILLING).all())
    counts = begin_prefetch(state, absent[:10], generations[:10], keep=0).counts
    assert counts.tolist() == [0, 0, 0, 0, 0, 10, 0]


def test_commit_shows_pages_but_drops_the_stale_and_the_overtaken(
    device: str, random_state: MakeState, to: Move, same_state: Same
) -> None:
    state = to(random_state(2, slots=100, groups=50, reserve=60), device)
    absent = torch.nonzero(state.slot_of < 0).flatten()[::7][:9].int()
    generations = state.generation[(absent // 6).long()].long()
    begun, slots, *_ = begin_prefetch(state, absent, generations, keep=0)
    begun, slots = begun[:9], slots[:9]
    assert bool((state.slot_of[absent.long()] < 0).all()), "in flight is not visible"
    resolve(state, begun[:2].contiguous(), "lru")
    release(state, torch.unique(begun[2:3].long() // 6))
    theirs = to(state, "cpu")
    wasted = torch.full((1,), 5, dtype=torch.int64, device=device)
    visible = commit_prefetch(state, begun, slots, generations, wasted=wasted)
    expected = reference.commit_prefetch(theirs, begun.cpu(), slots.cpu(), generations.cpu())
    assert visible.tolist() == expected.tolist()
    assert int(wasted) == 5 + int((~visible).sum())
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
