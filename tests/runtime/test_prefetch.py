"""A prefetch is invisible until a safe point, and is dropped if demand or the end of a sequence overtook it."""

from __future__ import annotations

import threading

import pytest
import torch

from hotset.runtime.backing import BackingStore
from hotset.runtime.config import RuntimeConfig
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


@pytest.fixture
def opened() -> tuple[PagedKV, Sequence, threading.Event]:
    config = RuntimeConfig.checked(page_size=PAGE, selected=2, recent=1, max_tokens=24, max_sequences=1, hbm_pages=8)
    kv = PagedKV(ModelShape("toy", 1, 1, 1, 4, torch.float32), config)
    backing = kv.manager.backing
    backing.__class__ = Held
    backing.go = threading.Event()  # type: ignore[attr-defined]
    sequence = kv.open(TOKENS)
    kv.extend(sequence, TOKENS)
    kv.store(torch.tensor(sequence.groups), torch.arange(6 * 2 * PAGE * 4.0).view(6, 2, PAGE, 4))
    kv.manager.low, kv.manager.high = 1, 6
    kv.manager.end_step()
    return kv, sequence, backing.go  # type: ignore[attr-defined]


def prefetch(kv: PagedKV, pages: list[int]) -> None:
    index = torch.tensor(pages, dtype=torch.int32)
    assert not kv.manager.prefetch(index, kv.manager.state.generation[index.long()].long())


def test_invisible_until_a_safe_point_after_arrival(opened: tuple[PagedKV, Sequence, threading.Event]) -> None:
    kv, sequence, go = opened
    page = sequence.groups[0]
    prefetch(kv, [page])
    kv.manager.commit_prefetches()
    assert int(kv.manager.state.slot_of[page]) == -1
    kv.check_integrity()
    go.set()
    kv.manager.commit_prefetches(wait=True)
    done = kv.manager.resolve(torch.tensor([page], dtype=torch.int32))
    assert bool(done.hit[0])
    assert bool(done.prefetched[0])
    assert torch.equal(kv.manager.rows[done.slots[0].long()].flatten(), torch.arange(16.0))


def test_demand_overtakes_a_prefetch(opened: tuple[PagedKV, Sequence, threading.Event]) -> None:
    kv, sequence, go = opened
    page = sequence.groups[1]
    prefetch(kv, [page])
    done = kv.manager.resolve(torch.tensor([page], dtype=torch.int32))
    assert not bool(done.hit[0])
    go.set()
    kv.manager.commit_prefetches(wait=True)
    assert kv.manager.moved.prefetch_wasted == 1
    assert int(kv.manager.state.slot_of[page]) == int(done.slots[0])
    kv.check_integrity()


def test_a_freed_sequence_drops_its_prefetch(opened: tuple[PagedKV, Sequence, threading.Event]) -> None:
    kv, sequence, go = opened
    prefetch(kv, [sequence.groups[2]])
    kv.close(sequence)
    go.set()
    kv.manager.commit_prefetches(wait=True)
    assert kv.manager.moved.prefetch_wasted == 1
    assert kv.manager.resident_pages().numel() == 0
    kv.check_integrity()


def test_a_page_reborn_while_in_flight_is_not_mistaken_for_the_old_one(
    opened: tuple[PagedKV, Sequence, threading.Event],
) -> None:
    kv, sequence, go = opened
    groups = list(sequence.groups)
    prefetch(kv, [groups[3]])
    kv.close(sequence)
    again = kv.open(TOKENS)
    kv.extend(again, TOKENS)
    assert groups[3] in again.groups
    kv.store(torch.tensor(again.groups), torch.full((6, 2, PAGE, 4), -1.0))
    go.set()
    kv.manager.commit_prefetches(wait=True)
    assert int(kv.manager.state.slot_of[groups[3]]) == -1
    kv.check_integrity()
