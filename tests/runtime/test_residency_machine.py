"""Random operations on the whole residency state, on every backend: after each, its integrity and all content."""

from __future__ import annotations

import random
import tempfile
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from backend_kit import BACKENDS, INTERPRETED, backend_device
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from hotset.kernels.dispatch import interpreting
from hotset.kernels.state import PINNED
from hotset.protos.errors import CapacityError
from hotset.runtime.config import RuntimeConfig
from hotset.runtime.groups import Sequence
from hotset.runtime.paged_kv import ModelShape, PagedKV

LAYERS, HEADS, PAGE, DIM, SELECTED = 2, 2, 4, 3, 3
SHAPE = ModelShape("toy", LAYERS, HEADS, 4, DIM, torch.float32)
ids = st.integers(0, 7)


class Residency(RuleBasedStateMachine):
    """Sequences come, grow, fork, pause and go; layers resolve; the hot set is resized; plans are hostile."""

    backend = "cpu"

    def __init__(self) -> None:
        super().__init__()
        self.expected: dict[int, torch.Tensor] = {}
        self.stamp = 0.0

    @initialize(
        slots=st.integers(20, 40),
        host=st.sampled_from([9, 60]),
        policy=st.sampled_from(["lru", "score-ema", "margin-ema"]),
    )
    def start(self, slots: int, host: int, policy: str) -> None:
        self.folder = tempfile.TemporaryDirectory()
        config = RuntimeConfig.checked(
            page_size=PAGE, selected=SELECTED, recent=1, max_tokens=52, max_sequences=2, hbm_pages=slots,
            host_pages=host, disk_dir=Path(self.folder.name), policy=policy,
        )  # fmt: skip
        self.interpreting = interpreting() if self.backend == "interpreted" else nullcontext()
        self.interpreting.__enter__()
        self.kv = PagedKV(SHAPE, config, backend_device(self.backend))
        self.kv.manager.low, self.kv.manager.high = 2, slots // 2  # a deep reserve, so that rescue and prefetch happen
        self.open(21)
        self.open(22)

    def teardown(self) -> None:
        self.kv.manager.close()
        self.interpreting.__exit__(None, None, None)
        self.folder.cleanup()

    @property
    def place(self) -> torch.device:
        return self.kv.manager.rows.device

    def fresh(self, *shape: int) -> torch.Tensor:
        self.stamp += 1
        return torch.arange(1, 1 + torch.Size(shape).numel()).view(shape) / 1000 + self.stamp

    def pages(self, group: int) -> torch.Tensor:
        return self.kv.manager.pages_of(torch.tensor([group])).flatten()

    def pick(self, number: int) -> Sequence | None:
        everybody = list(self.kv.sequences.values())
        return everybody[number % len(everybody)] if everybody else None

    def running(self) -> list[Sequence]:
        return [s for s in self.kv.sequences.values() if s.parked is None]

    @rule(tokens=st.integers(1, 20))
    def open(self, tokens: int) -> None:
        try:
            sequence = self.kv.open(tokens)
            self.kv.extend(sequence, tokens)
        except CapacityError:
            return
        for i, group in enumerate(sequence.groups):
            pages, rows = self.pages(group), self.fresh(LAYERS * HEADS, 2, PAGE, DIM)
            if (i + 1) * PAGE <= tokens:
                self.kv.store(pages, rows)
            else:
                self.kv.manager.rows[self.kv.manager.slots_of(pages)] = rows.to(self.place)
            self.remember(pages, rows)

    @rule(number=ids)
    def decode_token(self, number: int) -> None:
        if (sequence := self.pick(number)) is None or sequence.parked is not None:
            return
        try:
            self.kv.begin_token(sequence)
        except CapacityError:
            return
        pages = self.pages(sequence.groups[-1])
        slots = self.kv.manager.slots_of(pages)
        token = self.fresh(LAYERS * HEADS, 2, DIM).to(self.place)
        self.kv.manager.rows[slots, :, (sequence.length - 1) % PAGE] = token
        self.remember(pages, self.kv.manager.rows[slots].cpu())
        self.kv.end_tokens([sequence])

    @rule(number=ids)
    def fork(self, number: int) -> None:
        if (parent := self.pick(number)) is None:
            return
        try:
            child = self.kv.fork(parent)
        except CapacityError:
            return
        if child.length % PAGE:
            rows = torch.stack([self.expected[p] for p in self.pages(parent.groups[-1]).tolist()])
            self.remember(self.pages(child.groups[-1]), rows)
        assert (child.parked is None) == (parent.parked is None)

    @rule(number=ids)
    def close(self, number: int) -> None:
        if (sequence := self.pick(number)) is None:
            return
        before = set(self.held())
        self.kv.close(sequence)
        for page in before - set(self.held()):
            self.expected.pop(page, None)

    @rule(number=ids)
    def pause_or_resume(self, number: int) -> None:
        if (sequence := self.pick(number)) is None:
            return
        if sequence.parked is None:
            self.kv.pause(sequence)
            return
        try:
            self.kv.resume(sequence)
        except CapacityError:
            assert sequence.parked is not None

    @rule(wanted=st.integers(0, 50))
    def resize(self, wanted: int) -> None:
        """Down to what a step needs; at once but for tails and prefetches in flight, and back as far as wanted."""
        manager, tails = self.kv.manager, LAYERS * HEADS * len(self.running())
        wanted = max(wanted, HEADS * SELECTED * len(self.running()))
        manager.commit_prefetches(wait=True)
        manager.resize(wanted)
        pinned = int((manager.state.state == PINNED).sum())
        assert pinned <= tails
        assert manager.hot_slots() == min(wanted, manager.state.slots - pinned)

    @rule(seed=st.integers(0, 1 << 30))
    @precondition(lambda self: self.running())
    def step(self, seed: int) -> None:
        """A decode step's accesses: every layer resolves a selection for every sequence that runs."""
        rng = random.Random(seed)
        # A sequence that came since the last resize needs its share.
        self.kv.manager.resize(max(self.kv.manager.hot_slots(), HEADS * SELECTED * len(self.running())))
        self.kv.manager.begin_step()
        for layer in range(LAYERS):
            wanted = []
            for sequence in self.running():
                chosen = rng.sample(sequence.groups, min(SELECTED, len(sequence.groups)))
                wanted.append(self.kv.layer_pages(torch.tensor(chosen), layer).flatten())
            pages = torch.cat(wanted)
            done = self.kv.manager.resolve(pages.to(torch.int32))
            rows = self.kv.manager.rows[done.slots.long()].cpu()
            assert torch.equal(rows, torch.stack([self.expected[p] for p in pages.tolist()]))
            self.kv.manager.observe(pages, torch.full((pages.numel(),), rng.uniform(0, 255)))
        self.kv.manager.end_step()

    @rule(
        picks=st.lists(st.integers(0, 999), max_size=12),
        values=st.lists(st.floats(width=32), min_size=12, max_size=12),
        horizon=st.integers(-3, 3),
    )
    def plan(self, picks: list[int], values: list[float], horizon: int) -> None:
        """Values and prefetches for pages that exist: most entries are taken."""
        held = self.held() or [0]
        pages = torch.tensor([held[p % len(held)] for p in picks], dtype=torch.int32)
        generations = torch.tensor([self.kv.generation(int(p) // self.kv.lanes) for p in pages], dtype=torch.int64)
        self.send(pages, generations, torch.tensor(values[: len(picks)], dtype=torch.float32), horizon)

    @rule(entries=st.lists(st.tuples(st.integers(-5, 70), st.integers(0, 2), st.floats(width=32)), max_size=40))
    def hostile_plan(self, entries: list[tuple[int, int, float]]) -> None:
        pages = torch.tensor([p for p, _, _ in entries], dtype=torch.int32)
        generations = torch.tensor([g for _, g, _ in entries], dtype=torch.int64)
        self.send(pages, generations, torch.tensor([v for _, _, v in entries], dtype=torch.float32), 0)

    def send(self, pages: torch.Tensor, generations: torch.Tensor, values: torch.Tensor, horizon: int) -> None:
        tick = int(self.kv.manager.state.tick)
        self.kv.manager.apply_plan(pages, generations, values, epoch_tick=tick + horizon, until_tick=tick + 10)
        self.kv.manager.prefetch(pages, generations)

    @rule(wait=st.booleans())
    def safe_point(self, wait: bool) -> None:
        self.kv.manager.commit_prefetches(wait=wait)

    @rule(number=ids)
    def warm(self, number: int) -> None:
        if (sequence := self.pick(number)) is not None:
            self.kv.manager.warm(torch.unique(torch.cat([self.pages(g) for g in sequence.groups])))

    @invariant()
    def holds(self) -> None:
        self.kv.check_integrity()
        for sequence in self.kv.sequences.values():
            if sequence.parked is not None and sequence.parked.numel():
                tail = [self.expected[p] for p in self.pages(sequence.groups[-1]).tolist()]
                assert torch.equal(sequence.parked, torch.stack(tail))
        parked = {s.groups[-1] for s in self.kv.sequences.values() if s.parked is not None and s.length % PAGE}
        everything = torch.tensor(self.held(but=parked), dtype=torch.int64)
        if everything.numel():
            rows = torch.stack([self.expected[p] for p in everything.tolist()])
            assert torch.equal(self.kv.manager.peek(everything).cpu(), rows)

    def held(self, but: frozenset[int] | set[int] = frozenset()) -> list[int]:
        groups = {g for s in self.kv.sequences.values() for g in s.groups} - but
        return [p for g in sorted(groups) for p in self.pages(g).tolist()]

    def remember(self, pages: torch.Tensor, rows: torch.Tensor) -> None:
        self.expected.update(zip(pages.tolist(), rows, strict=True))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("policy", ["lru", "margin-ema"])
def test_tails_that_were_sealed_since_the_last_step_leave_the_next_one_its_slots(backend: str, policy: str) -> None:
    """Their tokens were written with no step between, so nothing but opening them has used them."""
    backend_device(backend)  # skips before there is a folder to remove
    machine = type("Machine", (Residency,), {"backend": backend})()
    machine.start(22, 60, policy)
    try:
        for _ in range(5 * PAGE):
            machine.decode_token(0)
        for seed in range(3):
            machine.step(seed)
            machine.holds()
    finally:
        machine.teardown()


class Inline(Residency):
    """The GPU backend, its ops by their references."""

    backend = "inline"


class Interpreted(Residency):
    """The GPU backend with its kernels."""

    backend = "interpreted"


class Cuda(Residency):
    """The GPU backend on a GPU."""

    backend = "cuda"


TestResidency = Residency.TestCase
TestResidency.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)
TestInline = Inline.TestCase
TestInline.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)
TestInterpreted = pytest.mark.skipif(not INTERPRETED, reason="Triton compiles here")(Interpreted.TestCase)
TestInterpreted.settings = settings(max_examples=3, stateful_step_count=25, deadline=None)
TestCuda = pytest.mark.gpu(
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")(Cuda.TestCase)
)
TestCuda.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
