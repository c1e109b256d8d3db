"""What steps of the GPU backend tell: messages, the ring of records, figures that must not grow for ever."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest
from backend_kit import Listener
from gpu_kit import GPU_NAMES, SMALLEST, Planner, decode, opened
from link_bench import until

from hotset.protos.messages import SequenceClose, SequenceOpen
from hotset.runtime.gpu import Event, InlineDevice, Stream
from hotset.runtime.gpu.ring import DEPTH
from hotset.runtime.gpu.steps import DeviceSteps
from hotset.runtime.steering import Steering


@pytest.mark.parametrize("backend", GPU_NAMES)
def test_captured_or_not_tells_the_same(model: Any, backend: str) -> None:
    told = []
    for graphs in (True, False):
        listener = Listener()
        decode(opened(model, backend, 16, hbm_pages=SMALLEST + 5, max_sequences=1, graphs=graphs), listener)
        told.append(listener.steps)
    assert len(told[0]) == len(told[1]) == 15
    for one, other in zip(*told, strict=True):
        assert np.array_equal(one.candidates, other.candidates)
        assert np.array_equal(one.scores, other.scores)
        assert (one.stats.reserve + one.stats.free, one.new_group.tolist()) == (
            other.stats.reserve + other.stats.free, other.new_group.tolist())  # fmt: skip
        if backend == "inline":  # which of several pages of one value goes is open on a GPU
            assert np.array_equal(one.flags, other.flags)
            assert np.array_equal(np.sort(one.loaded), np.sort(other.loaded))
            assert np.array_equal(np.sort(one.evicted), np.sort(other.evicted))
            assert one.stats.demand_pages == other.stats.demand_pages


@pytest.mark.parametrize("backend", GPU_NAMES)
@pytest.mark.parametrize("listens", [True, False])
def test_what_is_evicted_is_not_counted_for_ever(model: Any, backend: str, listens: bool) -> None:
    """The count is of 32 bits, and marks a place in a log."""
    decoder = opened(model, backend, 30, hbm_pages=SMALLEST, max_sequences=1)
    decoder.steering = Listener() if listens else Steering()
    for _ in range(20):
        decoder.step()
    manager = decoder.kv.manager
    assert manager.moved.demand_pages > 40
    # Since the last step at most a tail was opened.
    assert int(manager.state.evicted_count) <= decoder.kv.lanes
    assert manager.drain_changes()[0].size > 0
    decoder.close()


@pytest.mark.parametrize("backend", GPU_NAMES)
def test_the_first_step_that_is_told_tells_of_itself(model: Any, backend: str) -> None:
    """Whoever attaches late, or again, must not take what earlier steps moved for one step's."""
    decoder, listener = opened(model, backend, 20, hbm_pages=SMALLEST), Planner(last=-1)
    moved = decoder.kv.manager.moved
    nobody, told = decoder.steering, []
    for _turn in range(2):
        for _ in range(4):
            decoder.step()
        decoder.steering = listener
        decoder.step()
        before = moved.demand_pages
        decoder.step()
        told.append(moved.demand_pages - before)
        decoder.steering = nobody
        decoder.step()
    decode(decoder)
    first = [listener.steps[0], listener.steps[2]]
    assert [step.stats.demand_pages for step in first] == told
    assert sum(told) > 0


@pytest.mark.parametrize("backend", GPU_NAMES)
def test_messages_come_in_order_and_add_up(model: Any, backend: str) -> None:
    decoder, listener = opened(model, backend, 14, hbm_pages=SMALLEST + 90), Planner(last=12)
    decode(decoder, listener)
    manager = decoder.kv.manager
    assert [step.epoch for step in listener.steps] == list(range(13))
    assert isinstance(listener.heard[-1], SequenceClose)
    assert not any(isinstance(message, SequenceOpen) for message in listener.heard)
    assert sum(step.stats.demand_pages for step in listener.steps) == manager.moved.demand_pages
    assert sum(step.stats.prefetch_pages for step in listener.steps) == manager.moved.prefetch_pages > 0
    assert all(step.stats.free + step.stats.reserve <= SMALLEST + 90 for step in listener.steps)
    resident: set[int] = set()
    for step in listener.steps:
        assert not set(step.loaded.tolist()) & set(step.evicted.tolist())
        resident = (resident | set(step.loaded.tolist())) - set(step.evicted.tolist())
        assert len(resident) <= SMALLEST + 90
    applied = manager.moved.entries_applied + manager.moved.prefetch_pages
    assert sum(n for n, _ in listener.told) == applied > 0
    rejected = sum(sum(reasons.values()) for _, reasons in listener.told)
    assert rejected == sum(manager.moved.entries_rejected.values()) > 0


class SlowEvents(InlineDevice):
    """Copies of the events stream arrive when `go` says so."""

    def __init__(self) -> None:
        super().__init__()
        self.go = threading.Event()

    def mark(self, stream: Stream, *, sleep: bool = False) -> Event:
        done, go = super().mark(stream), self.go

        class Late:
            def query(self) -> bool:
                return go.is_set()

            def synchronize(self) -> None:
                assert go.wait(20)

        return Late() if stream is Stream.EVENTS else done

    def wait(self, stream: Stream, event: Event) -> None:
        """A stream would wait, and the host goes on; here the copy is there already."""


def test_a_full_ring_drops_and_counts_and_no_step_waits(model: Any) -> None:
    device, listener = SlowEvents(), Planner()
    decoder = opened(model, "inline", DEPTH + 10, device, max_sequences=1, hbm_pages=40)
    decoder.steering = listener
    for _ in range(DEPTH + 3):
        decoder.step()
    assert listener.steps == []
    assert listener.lost == 3
    device.go.set()
    decode(decoder, listener)
    assert [step.epoch for step in listener.steps][:DEPTH] == list(range(DEPTH))
    assert listener.steps[DEPTH].epoch >= DEPTH + 3


def test_as_many_records_get_buffers_as_are_under_way_at_once(model: Any) -> None:
    decoder = opened(model, "inline", 12)
    decoder.steering = Planner()
    assert isinstance(decoder.steps, DeviceSteps)
    ring = decoder.steps.ring
    for _ in range(8):
        decoder.step()
        decoder.steps.outbox.go()
        until(lambda: len(ring.free) == DEPTH)
    assert sum(told.host is not None for told in ring.free) == 1
    decoder.close()
