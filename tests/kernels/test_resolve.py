"""resolve: kernel against reference, state for state, and the rules of sharing, rescue and a dry reserve."""

from collections.abc import Callable

import pytest
import torch

from hotset.kernels.resolve import PoolTooSmallError, Resolved, raise_if_failed, reference, resolve
from hotset.kernels.state import LIVE, NEVER, PINNED, RESERVED, ResidencyState
from hotset.kernels.swap_in import swap_in

MakeState = Callable[..., ResidencyState]
Move = Callable[[ResidencyState, str], ResidencyState]
Same = Callable[[ResidencyState, ResidencyState], None]


def _both(
    state: ResidencyState, pages: torch.Tensor, policy: str, device: str, to: Move, same_state: Same
) -> tuple[ResidencyState, Resolved]:
    """Resolve on the device and by the reference; the results must be the same but for the slots' names."""
    theirs, ours = state.clone(), to(state, device)
    expected = reference.resolve(theirs, pages, policy)
    done = resolve(ours, pages.to(device), policy)
    raise_if_failed(ours)
    ours = to(ours, "cpu")
    same_state(ours, theirs)
    count = int(done.miss_count)
    assert count == int(expected.miss_count)
    assert torch.equal(done.hit.cpu(), expected.hit)
    assert torch.equal(done.prefetched.cpu(), expected.prefetched)
    assert sorted(done.miss_pages[:count].tolist()) == sorted(expected.miss_pages.tolist())
    asked = pages >= 0
    slots = done.slots.cpu()
    assert torch.equal(slots[asked], ours.slot_of[pages[asked].long()])
    assert bool((slots[~asked] == -1).all())
    assert torch.equal(ours.slot_of[done.miss_pages[:count].cpu().long()], done.miss_slots[:count].cpu())
    return ours, done


@pytest.mark.parametrize("policy", ["score-ema", "lru"])
# 63 positions in one block; 2,000 in eight, more than the reserve holds, so that the reclaimer runs inline.
@pytest.mark.parametrize(("asked", "slots", "groups", "reserve"), [(63, 200, 60, 30), (2000, 3000, 700, 300)])
def test_walk_equals_reference(
    asked: int,
    slots: int,
    groups: int,
    reserve: int,
    policy: str,
    device: str,
    random_state: MakeState,
    to: Move,
    same_state: Same,
) -> None:
    state = random_state(slots, slots=slots, groups=groups, reserve=reserve, free=7)
    for _ in range(3):
        # Distinct ages, so that LRU has one right choice too.
        state.last_used.copy_(torch.randperm(slots).int() - slots)
        state.tick += 1
        pages = torch.randint(0, groups * 6, (asked,), dtype=torch.int32)
        pages[torch.rand(asked) < 0.1] = -1
        state, _ = _both(state, pages, policy, device, to, same_state)
        state.step_tick.copy_(state.tick + 1)


def test_a_shared_page_is_loaded_once(device: str, random_state: MakeState, to: Move, same_state: Same) -> None:
    state = random_state(1, slots=63, groups=50, reserve=20)
    absent = torch.nonzero(state.slot_of < 0).flatten()[:5].int()
    pages = absent.repeat(20)[torch.randperm(100)]
    state, done = _both(state, pages, "score-ema", device, to, same_state)
    assert int(done.miss_count) == 5
    assert not done.hit.any()


def test_a_hit_rescues_and_the_misses_of_the_same_call_go_elsewhere(
    device: str, random_state: MakeState, to: Move, same_state: Same
) -> None:
    state = random_state(2, slots=100, groups=50, reserve=40)
    reserved = torch.nonzero(state.state == RESERVED).flatten()
    rescued = state.page_of[reserved[reserved.numel() // 2 :]]
    absent = torch.nonzero(state.slot_of < 0).flatten()[: reserved.numel() // 2].int()
    after, done = _both(state, torch.cat((rescued, absent)), "score-ema", device, to, same_state)
    assert bool(done.hit[: rescued.numel()].all())
    assert bool((after.state[state.slot_of[rescued.long()].long()] == LIVE).all())
    assert int((after.state == RESERVED).sum()) == 0


def test_every_position_of_a_prefetched_page_sees_its_flag(
    device: str, random_state: MakeState, to: Move, same_state: Same
) -> None:
    state = random_state(3, slots=63, groups=50)
    page = state.page_of[state.prefetched.nonzero().flatten()[0]]
    after, done = _both(state, page.repeat(63), "score-ema", device, to, same_state)
    assert bool(done.prefetched.all())
    assert not after.prefetched[after.slot_of[page.long()].long()]


def test_a_use_ends_a_plan_and_advance_counts_the_call(device: str, random_state: MakeState, to: Move) -> None:
    state = to(random_state(4, slots=63, groups=50), device)
    state.value_until.fill_(1000)
    pages = state.page_of[:10].clone()
    done = resolve(state, pages, "lru", advance=True)
    assert state.tick.tolist() == [101]
    assert state.last_used[done.slots.long()].tolist() == [101] * 10
    assert state.value_until[done.slots.long()].tolist() == [NEVER] * 10


def test_a_dry_reserve_takes_slots_of_earlier_layers_last(
    device: str, random_state: MakeState, to: Move, same_state: Same
) -> None:
    state = random_state(5, slots=64, groups=50)
    live = torch.nonzero(state.state == LIVE).flatten()
    early = live[:50]
    state.last_used[early] = 99
    state.tick.fill_(101)
    # 60 slots are not pinned: 10 unused in this step, then 50 that tick 99 used, in a step that began with 99.
    absent = torch.nonzero(state.slot_of < 0).flatten().int()
    after, _ = _both(state, absent[:10], "score-ema", device, to, same_state)
    assert bool((after.last_used[early] == 99).all())
    after.tick += 1
    _, done = _both(after, absent[10:30], "score-ema", device, to, same_state)
    assert int(done.miss_count) == 20


def test_between_steps_a_dry_reserve_spares_what_the_same_call_brought(
    device: str, random_state: MakeState, to: Move, same_state: Same
) -> None:
    """The next step has begun to count, one slot is reserved, and the new pages are the coldest by their averages."""
    state = random_state(9, slots=64, groups=50)
    state.step_tick.copy_(state.tick + 1)
    absent = torch.nonzero(state.slot_of < 0).flatten().int()[:20]
    state.ema.fill_(200.0)
    state.ema[absent.long()] = 0.0
    reserved = torch.nonzero(state.state == RESERVED).flatten()
    state.state[reserved[1:]] = LIVE
    after, done = _both(state, absent, "score-ema", device, to, same_state)
    assert torch.equal(after.page_of[done.slots.cpu().long()], absent)


def test_a_pool_too_small_is_told_and_pins_survive(device: str, random_state: MakeState, to: Move) -> None:
    state = to(random_state(6, slots=64, groups=50), device)
    pinned = state.page_of[state.state == PINNED].clone()
    absent = torch.nonzero(state.slot_of < 0).flatten()[:80].int()
    if device == "cpu":
        with pytest.raises(PoolTooSmallError, match="80 pages missed but only 60"):
            reference.resolve(state.clone(), absent, "lru")
    done = resolve(state, absent, "lru")
    with pytest.raises(PoolTooSmallError, match="20 selected pages found no slot among 64"):
        raise_if_failed(state)
    raise_if_failed(state)
    assert int((done.slots < 0).sum()) == 20
    assert bool((state.slot_of[pinned.long()] >= 0).all())
    assert bool((state.slot_of >= -1).all())


def test_wrong_arguments_are_named(random_state: MakeState) -> None:
    state = random_state(7, slots=63, groups=50)
    with pytest.raises(ValueError, match=r"pages must be torch\.int32"):
        resolve(state, torch.zeros(3, dtype=torch.int64), "lru")
    with pytest.raises(ValueError, match="unknown built-in policy 'fifo'"):
        resolve(state, torch.zeros(3, dtype=torch.int32), "fifo")


@pytest.mark.gpu
def test_a_captured_graph_replays_steps(random_state: MakeState, to: Move, same_state: Same) -> None:
    """Resolve and swap-in of one graph, replayed with new pages: each step as the reference does it."""
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    theirs = random_state(8, slots=600, groups=200, reserve=100)
    ours = to(theirs, "cuda")
    host = torch.arange(1200, dtype=torch.int32)[:, None].repeat(1, 164).view(torch.uint8).pin_memory()
    rows = torch.zeros(600, 656, dtype=torch.uint8, device="cuda")
    held = ours.page_of >= 0
    rows[held] = host.cuda()[ours.page_of[held].long()]
    pages = torch.full((100,), -1, dtype=torch.int32, device="cuda")
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    with torch.cuda.stream(stream):
        resolve(ours, pages, "score-ema")
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream):
            done = resolve(ours, pages, "score-ema", advance=True)
            swap_in(host, rows, done.miss_pages, done.miss_slots, done.miss_count)
    for _ in range(200):
        asked = torch.randint(0, 1200, (100,), dtype=torch.int32)
        pages.copy_(asked)
        graph.replay()
        torch.cuda.synchronize()
        theirs.tick += 1
        reference.resolve(theirs, asked, "score-ema")
        raise_if_failed(ours)
        same_state(to(ours, "cpu"), theirs)
        assert torch.equal(rows.view(torch.int32)[done.slots.long(), 7].cpu(), asked)
        ours.step_tick.copy_(ours.tick + 1)
        theirs.step_tick.copy_(theirs.tick + 1)
        ours.evicted_count.zero_()
        theirs.evicted_count.zero_()
