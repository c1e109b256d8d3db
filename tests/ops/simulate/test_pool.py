"""The compiled pool does what the kernels' references do, operation by operation, and keeps its invariants."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from hotset.kernels.apply_plan.reference import apply_plan
from hotset.kernels.decide.reference import rescue, write_values
from hotset.kernels.prefetch.reference import begin_prefetch, commit_prefetch
from hotset.kernels.reclaim.reference import reclaim
from hotset.kernels.release.reference import release
from hotset.kernels.reserve import reserve_level
from hotset.kernels.resolve.reference import PoolTooSmallError, resolve
from hotset.kernels.state import LIVE as K_LIVE
from hotset.kernels.state import PINNED as K_PINNED
from hotset.kernels.state import ResidencyState
from hotset.ops.simulate import planned
from hotset.ops.simulate.integrity import check_integrity
from hotset.ops.simulate.pool import SimPool
from hotset.ops.simulate.slots import FREE, RESERVED, STEP
from hotset.protos.errors import CapacityError, ConfigError
from hotset.protos.messages import Geometry, Plan

LAYERS, HEADS, GROUPS, SLOTS, K = 3, 2, 30, 96, 5
LANES = LAYERS * HEADS
SHAPE = Geometry(
    layers=LAYERS, kv_heads=HEADS, page_size=4, selected=K, candidates=2 * K, page_bytes=64, slots=SLOTS, groups=GROUPS
)  # fmt: skip


class Pair:
    """The same operations on the simulated pool and on the kernels' references. Averages never tie."""

    def __init__(self, seed: int, policy: str) -> None:
        self.rng = np.random.default_rng(seed)
        self.policy = policy
        self.pool = SimPool(SHAPE, policy)
        self.state = ResidencyState.create(slots=SLOTS, groups=GROUPS, layers=LAYERS, kv_heads=HEADS)
        self.flights: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []
        self.tail = -1
        for group in range(GROUPS):
            self.pool.seal(group, resident=False)

    def average(self) -> None:
        values = self.rng.permutation(GROUPS * LANES).astype(np.float32)
        self.pool.s.ema[:], self.state.ema[:] = values, torch.tensor(values)
        self.pool.s.seen[:] = self.pool.s.counts[STEP]

    def begin_step(self) -> None:
        self.pool.begin_step()
        self.state.step_tick.copy_(self.state.tick + 1)
        self.average()

    def step(self) -> None:
        self.begin_step()
        for layer in range(LAYERS):
            self.resolve(layer)
        self.end_step()

    def step_that_looks_ahead(self) -> None:
        """As its first layer begins, the pages of the last one are valued, protected and fetched."""
        self.begin_step()
        last = LAYERS - 1
        pages = self.rng.permutation(GROUPS - 1)[:20].astype(np.int32) * LANES + last * HEADS
        values = (self.rng.permutation(20) / 8 + 1 / 16).astype(np.float32)
        planned.write_values(self.pool.s, pages, values, self.pool.tick + LAYERS)
        write_values(self.state, torch.tensor(pages), torch.tensor(values), 1)
        here = self.pool.s.slot_of[pages] >= 0
        planned.rescue(self.pool.s, pages[here])
        rescue(self.state, torch.tensor(pages), torch.where(torch.tensor(here), 0.0, torch.nan))
        self.check()
        begun = self.pool.begin_ahead(pages, last)
        fetched, slots, _ = begin_prefetch(
            self.state, torch.tensor(pages), self.state.generation[torch.tensor(pages).long() // LANES].long(),
            keep=self.pool.low,
        )  # fmt: skip
        assert begun.tolist() == fetched.tolist()
        self.check()
        for layer in range(last):
            self.resolve(layer)
        self.pool.move(3)
        assert self.pool.land(last) == max(0, len(begun) - 3)
        commit_prefetch(self.state, fetched, slots, self.state.generation[fetched.long() // LANES].long())
        self.resolve(last)
        self.end_step()

    def resolve(self, layer: int) -> None:
        pages = np.stack([self.rng.permutation(GROUPS - 1)[:K] for _ in range(HEADS)])
        lane = layer * HEADS + np.arange(HEADS)[:, None]
        physical = np.full((1, LANES, K), -1, np.int32)
        physical[0, layer * HEADS : (layer + 1) * HEADS] = pages * LANES + lane
        selected, flags = physical >= 0, (physical >= 0).astype(np.uint8)
        missed = self.pool.resolve(physical, selected, flags, layer * HEADS, (layer + 1) * HEADS)
        self.state.tick += 1
        asked = torch.tensor(physical[selected])
        done = resolve(self.state, asked, self.policy)
        assert missed == done.miss_pages.numel()
        assert ((flags[selected] & 2) > 0).tolist() == done.hit.tolist()
        assert ((flags[selected] & 4) > 0).tolist() == done.prefetched.tolist()

    def end_step(self) -> None:
        none = np.full((1, LANES, 1), -1, np.int32)
        self.pool.end_step(none, none.astype(np.uint8), none >= 0)
        reclaim(self.state, low=self.pool.low, high=self.pool.high, policy=self.policy)

    def plan(self) -> None:
        pages = (self.rng.permutation(GROUPS * LANES + 4)[:60] - 2).astype("<i4")
        fetch = self.rng.integers(0, (GROUPS - 1) * LANES, 12).astype("<i4")
        plan = Plan(
            number=1, epoch=0, deadline=9, source="heuristic", pages=pages, generations=self._generations(pages),
            values=(self.rng.permutation(60) / 8 + 1 / 16).astype("<f4"), prefetch=fetch,
            prefetch_generations=self._generations(fetch),
        )  # fmt: skip
        tick = self.pool.tick
        applied, rejected = self.pool.apply_plan(plan, epoch_tick=tick - 2, until_tick=tick + 2 * LAYERS)
        counts = apply_plan(
            self.state, torch.tensor(pages), torch.tensor(plan.generations.astype(np.int64)),
            torch.tensor(plan.values), epoch_tick=tick - 2, until_tick=tick + 2 * LAYERS,
        )  # fmt: skip
        begun, slots, fetched = begin_prefetch(
            self.state, torch.tensor(fetch), torch.tensor(plan.prefetch_generations.astype(np.int64)),
            keep=self.pool.low,
        )  # fmt: skip
        assert applied == int(counts[0] + fetched[0])
        assert sum(rejected.values()) == int(counts[1:].sum() + fetched[1:].sum())
        if begun.numel():
            self.flights.append((begun, slots, self.state.generation[begun.long() // LANES].long()))

    def land(self) -> None:
        self.pool.move(1e9)
        wasted = self.pool.commit()
        assert wasted == sum(int((~commit_prefetch(self.state, *flight)).sum()) for flight in self.flights)
        self.flights.clear()

    def release(self) -> None:
        group = int(self.rng.integers(GROUPS - 1))
        self.pool.free([group])
        self.pool.seal(group, resident=False)
        release(self.state, torch.tensor([group]))

    def toggle_tail(self) -> None:
        """The last group is nobody's selection, so that it can be a tail."""
        group = GROUPS - 1
        pages = torch.arange(group * LANES, (group + 1) * LANES)
        if self.tail < 0:
            self.pool.open_tail(group)
            self.state.state[resolve(self.state, pages.int(), self.policy).slots.long()] = K_PINNED
            self.tail = group
        else:
            self.pool.seal(group, resident=True)
            self.state.state[self.state.slot_of[pages].long()] = K_LIVE
            self.pool.free([group])
            release(self.state, torch.tensor([group]))
            self.tail = -1

    def check(self) -> None:
        check_integrity(self.pool, [self.tail] if self.tail >= 0 else [])
        assert (self.pool.s.slot_of == self.state.slot_of.numpy()).all()
        assert (self.pool.s.state == self.state.state.numpy()).all()
        assert self.pool.count(RESERVED) == reserve_level(self.state)

    def _generations(self, pages: Any) -> Any:
        right = self.pool.s.generation[np.clip(pages // LANES, 0, GROUPS - 1)]
        return (right + (self.rng.random(len(pages)) < 0.1)).astype("<u4")


@pytest.mark.parametrize("seed", range(6))
def test_random_operations_equal_the_kernels(seed: int) -> None:
    pair = Pair(seed, "score-ema")
    operations = [
        pair.step, pair.step_that_looks_ahead, pair.step_that_looks_ahead, pair.plan, pair.land, pair.release,
        pair.toggle_tail,
    ]  # fmt: skip
    for _ in range(80):
        operations[pair.rng.integers(len(operations))]()
        pair.check()


@pytest.mark.parametrize("seed", range(3))
def test_the_share_of_memory_changes_at_any_time(seed: int) -> None:
    pair = Pair(seed, "score-ema")
    for _ in range(60):
        pair.pool.resize(int(pair.rng.integers(40, SLOTS + 1)))
        check_integrity(pair.pool, [])
        pair.pool.begin_step()
        physical = np.full((1, LANES, K), -1, np.int32)
        physical[0] = np.stack([pair.rng.permutation(GROUPS)[:K] * LANES + lane for lane in range(LANES)])
        for layer in range(LAYERS):
            pair.pool.resolve(physical, physical >= 0, np.zeros(physical.shape, np.uint8), 2 * layer, 2 * layer + 2)
        pair.pool.end_step(physical, np.full(physical.shape, 200, np.uint8), physical >= 0)
        check_integrity(pair.pool, [])
        assert len(pair.pool.resident_pages()) <= pair.pool.limit


def test_a_pool_that_is_too_small_says_so() -> None:
    pair = Pair(0, "score-ema")
    pair.pool.resize(2 * K - 1)
    pair.pool.begin_step()
    physical = np.arange(LANES * K, dtype=np.int32).reshape(1, K, LANES).transpose(0, 2, 1).copy()
    with pytest.raises(CapacityError, match="slots are missing"):
        pair.pool.resolve(physical, physical >= 0, np.zeros(physical.shape, np.uint8), 0, 2)
    small = ResidencyState.create(slots=2 * K - 1, groups=GROUPS, layers=LAYERS, kv_heads=HEADS)
    small.tick += 1
    with pytest.raises(PoolTooSmallError):
        resolve(small, torch.tensor(physical[0, :2].ravel()), "score-ema")


def test_what_a_pool_reports_as_changed_is_what_changed() -> None:
    pair = Pair(1, "score-ema")
    believed = np.zeros(GROUPS * LANES, np.bool_)
    for _ in range(20):
        pair.step()
        pair.plan()
        pair.land()
        loaded, evicted = pair.pool.drain_changes()
        believed[evicted], believed[loaded] = False, True
        assert (believed == (pair.pool.s.slot_of >= 0)).all()
        assert not set(loaded.tolist()) & set(evicted.tolist())


def test_unknown_builtin_policy() -> None:
    with pytest.raises(ConfigError, match="no built-in policy 'fifo'"):
        SimPool(SHAPE, "fifo")


def test_warming_leaves_the_reserve_its_share() -> None:
    pool = SimPool(SHAPE, "lru")
    assert pool.warm(np.arange(SLOTS + 5, dtype=np.int32)) == SLOTS - pool.high
    assert pool.count(FREE) == pool.high
