"""What a step leaves on the device behind its pass: averages, counts and the reserve for the next one, and its record.

    demand stream   ... pass ── accesses, counts, averages, reserve, record ── next pass ...
    events stream                                                          └── copy of the record

It is the same at every step, but for whether somebody is told. So it is captured as soon as the pass is: some thirty
launches cost the host more than the device, while the threads that send the last step's message want the interpreter.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from hotset.runtime.gpu.captured import Captured
from hotset.runtime.gpu.changes import Changes
from hotset.runtime.gpu.device import Device, Event, Stream
from hotset.runtime.gpu.packing import Kind
from hotset.runtime.gpu.passes import DevicePass
from hotset.runtime.gpu.step_record import StepRecord, record_kinds


class Behind:
    """Behind the passes of one shape, with one record on the device: each told step writes over that of the last."""

    def __init__(self, device: Device, *, captures: bool) -> None:
        self._device = device
        self._ways = {tell: Captured[None](device, "what follows a step", captures=captures) for tell in (False, True)}
        self.warming = False
        """Whether the last step's was launched one by one, to be captured, or captured."""
        self._record: StepRecord | None = None
        self._copied: Event | None = None

    def __call__(self, done: DevicePass, changes: Changes, *, captured: bool, tell: bool) -> None:
        """Launch it for a pass, which is `captured` or not. `tell`: leave a record, with `changes` since the last."""
        record = self._next_record(done) if tell else None
        way, manager = self._ways[tell], done.manager
        if captured:
            way((done, *manager.watermarks), lambda: _launch(done, changes, record))
        else:
            _launch(done, changes, record)
        self.warming = captured and way.warming
        manager.has_stepped(len(done.resolved))

    @property
    def kinds(self) -> Sequence[Kind]:
        """Of the record that the last told step left."""
        assert self._record is not None, "no step was told"
        return self._record.kinds

    def copy(self, host: StepRecord) -> Event:
        """Start copying the record to `host`, on the events stream; the end of that."""
        assert self._record is not None, "no step was told"
        device = self._device
        device.wait(Stream.EVENTS, device.mark(Stream.DEMAND))
        with device.on(Stream.EVENTS):
            host.memory.copy_(self._record.memory, non_blocking=True)
        self._copied = device.mark(Stream.EVENTS, sleep=True)
        return self._copied

    def _next_record(self, done: DevicePass) -> StepRecord:
        if self._record is None:
            place = self._device.place
            self._record = StepRecord(
                record_kinds(done), lambda shape, kind: torch.empty(shape, dtype=kind, device=place)
            )
        if self._copied is not None:  # it left beside this pass, so nothing waits for it here
            self._device.wait(Stream.DEMAND, self._copied)
        return self._record


def leave_nothing(done: DevicePass) -> None:
    """Behind a pass that was for nothing: what it moved counts, and the reserve is refilled, but nobody has used it."""
    manager = done.manager
    manager.count_layers(done.resolved)
    _close_step(done)
    manager.has_stepped(len(done.resolved))


def _close_step(done: DevicePass) -> None:
    done.manager.end_step()
    # The log of evictions is the CPU backend's: nobody empties it here, and its count must not grow for ever.
    done.manager.state.evicted_count.zero_()


def _launch(done: DevicePass, changes: Changes, record: StepRecord | None) -> None:
    manager = done.manager
    manager.record(done.accessed(), None if record is None else record.accessed)
    manager.count_layers(done.resolved)
    manager.fold()
    _close_step(done)
    if record is not None:
        changes.find(record.changed)
        record.counts.copy_(manager.counts)
        record.figures.copy_(manager.figures.now.flatten())
        if record.ranks is not None:
            assert done.ahead is not None, "a pass that looks ahead has ranks"
            record.ranks.copy_(done.ahead.ranks)
