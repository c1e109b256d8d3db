"""A prefetch is invisible until a safe point, and is dropped if demand or the end of a sequence overtook it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field

import pytest
import torch
from backend_kit import BACKENDS, backend_device

from hotset.kernels.dispatch import interpreting
from hotset.runtime.backing import BackingStore
from hotset.runtime.config import RuntimeConfig
from hotset.runtime.gpu import CudaDevice, Event, InlineDevice, Stream
from hotset.runtime.groups import Sequence
from hotset.runtime.paged_kv import ModelShape, PagedKV

PAGE, TOKENS = 2, 12


class Held(BackingStore):
    """A backing store whose copies wait until `go`, as those of a slow link do."""

    go: threading.Event

    def fetch(self, pages: torch.Tensor, out: torch.Tensor, where: torch.Tensor) -> None:
        if threading.current_thread().name.startswith("hotset-prefetch"):
            self.go.wait(10)
        super().fetch(pages, out, where)


@dataclass
class _Late:
    """The end of a copy that has arrived when `go` says so."""

    go: threading.Event
    real: Event

    def query(self) -> bool:
        return self.go.is_set() and self.real.query()

    def synchronize(self) -> None:
        assert self.go.wait(10)
        self.real.synchronize()


class LateInline(InlineDevice):
    """Copies of the prefetch stream take until `go`."""

    go: threading.Event

    def mark(self, stream: Stream, *, sleep: bool = False) -> Event:
        real = super().mark(stream, sleep=sleep)
        return _Late(self.go, real) if stream is Stream.PREFETCH else real


class LateCuda(CudaDevice):
    """The same on a GPU."""

    go: threading.Event

    def mark(self, stream: Stream, *, sleep: bool = False) -> Event:
        real = super().mark(stream, sleep=sleep)
        return _Late(self.go, real) if stream is Stream.PREFETCH else real

    def wait(self, stream: Stream, event: Event) -> None:
        super().wait(stream, event.real if isinstance(event, _Late) else event)


@dataclass
class Opened:
    """A sequence of six stored pages, nothing resident, and the word that lets copies arrive."""

    kv: PagedKV
    sequence: Sequence
    go: threading.Event = field(default_factory=threading.Event)


@pytest.fixture(params=[*BACKENDS, "staged"])
def opened(request: pytest.FixtureRequest) -> Iterator[Opened]:
    """On every backend; on the GPU's also by way of the copy engine."""
    config = RuntimeConfig.checked(page_size=PAGE, selected=2, recent=1, max_tokens=24, max_sequences=1, hbm_pages=8)
    go, name = threading.Event(), "inline" if request.param == "staged" else request.param
    device = backend_device(name)
    if not isinstance(device, str):
        device.__class__ = LateInline if isinstance(device, InlineDevice) else LateCuda
        device.go = go  # type: ignore[attr-defined]
    with interpreting() if name == "interpreted" else nullcontext():
        kv = PagedKV(ModelShape("toy", 1, 1, 1, 4, torch.float32), config, device)
        if name == "cpu":
            kv.manager.backing.__class__ = Held
            kv.manager.backing.go = go  # type: ignore[attr-defined]
        elif request.param == "staged":
            kv.manager.pass_tokens = 1 << 20  # type: ignore[attr-defined]
        sequence = kv.open(TOKENS)
        kv.extend(sequence, TOKENS)
        kv.store(torch.tensor(sequence.groups), torch.arange(6 * 2 * PAGE * 4.0).view(6, 2, PAGE, 4))
        kv.manager.low, kv.manager.high = 1, 6
        kv.manager.end_step()
        yield Opened(kv, sequence, go)
        go.set()
        kv.manager.close()


def prefetch(kv: PagedKV, pages: list[int]) -> None:
    generations = torch.tensor([kv.generation(page) for page in pages], dtype=torch.int64)
    assert not kv.manager.prefetch(torch.tensor(pages, dtype=torch.int32), generations)


def slot(kv: PagedKV, page: int) -> int:
    return int(kv.manager.slots_of(torch.tensor([page])))


def wasted(kv: PagedKV) -> int:
    kv.manager.check_mirrors()
    return kv.manager.moved.prefetch_wasted


def test_invisible_until_a_safe_point_after_arrival(opened: Opened) -> None:
    kv, page = opened.kv, opened.sequence.groups[0]
    prefetch(kv, [page])
    kv.manager.commit_prefetches()
    assert slot(kv, page) == -1
    kv.check_integrity()
    opened.go.set()
    kv.manager.commit_prefetches(wait=True)
    done = kv.manager.resolve(torch.tensor([page], dtype=torch.int32))
    assert bool(done.hit[0])
    assert bool(done.prefetched[0])
    assert torch.equal(kv.manager.rows[done.slots[0].long()].flatten().cpu(), torch.arange(16.0))


def test_demand_overtakes_a_prefetch(opened: Opened) -> None:
    kv, page = opened.kv, opened.sequence.groups[1]
    prefetch(kv, [page])
    done = kv.manager.resolve(torch.tensor([page], dtype=torch.int32))
    assert not bool(done.hit[0])
    opened.go.set()
    kv.manager.commit_prefetches(wait=True)
    assert wasted(kv) == 1
    assert slot(kv, page) == int(done.slots[0])
    kv.check_integrity()


def test_a_freed_sequence_drops_its_prefetch(opened: Opened) -> None:
    kv, sequence = opened.kv, opened.sequence
    prefetch(kv, [sequence.groups[2]])
    kv.close(sequence)
    opened.go.set()
    kv.manager.commit_prefetches(wait=True)
    assert wasted(kv) == 1
    assert kv.manager.resident_pages().numel() == 0
    kv.check_integrity()


def test_a_page_reborn_while_in_flight_is_not_mistaken_for_the_old_one(opened: Opened) -> None:
    kv, sequence = opened.kv, opened.sequence
    groups = list(sequence.groups)
    prefetch(kv, [groups[3]])
    kv.close(sequence)
    again = kv.open(TOKENS)
    kv.extend(again, TOKENS)
    assert groups[3] in again.groups
    kv.store(torch.tensor(again.groups), torch.full((6, 2, PAGE, 4), -1.0))
    opened.go.set()
    kv.manager.commit_prefetches(wait=True)
    assert slot(kv, groups[3]) == -1
    kv.check_integrity()


def test_changes_are_told_once(opened: Opened) -> None:
    """What demand and prefetch loaded, and what left for it."""
    kv, groups = opened.kv, opened.sequence.groups
    opened.go.set()
    kv.manager.drain_changes()
    kv.manager.resolve(torch.tensor(groups[:2], dtype=torch.int32))
    prefetch(kv, [groups[4]])
    kv.manager.commit_prefetches(wait=True)
    loaded, evicted = kv.manager.drain_changes()
    assert sorted(loaded.tolist()) == sorted([*groups[:2], groups[4]])
    assert evicted.size == 0
    kv.close(opened.sequence)
    loaded, evicted = kv.manager.drain_changes()
    assert loaded.size == 0
    assert sorted(evicted.tolist()) == sorted([*groups[:2], groups[4]])
    assert [changes.size for changes in kv.manager.drain_changes()] == [0, 0]
