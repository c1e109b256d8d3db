"""Step events leave the device through a ring of pinned records, copied on a stream of their own.

    demand stream   the step's accesses are written into the record's device half; counts and slots go beside them
    events stream   behind that, everything is copied to the record's pinned half
    a thread        waits for the copies, makes the message, and gives the record back

A step waits for none of this. If every record is under way, the step is not told: it is counted, and the gap in the
sequence numbers has a listener ask for a snapshot, as at any other high-water mark.
"""

from __future__ import annotations

from collections import deque

import numpy as np
import numpy.typing as npt
import torch

from hotset.kernels.record import Recorded
from hotset.protos.messages import LayerFigure, Step, StepStats
from hotset.runtime.events import lookahead_ranks
from hotset.runtime.gpu.changes import Changes
from hotset.runtime.gpu.counts import BEGUN, COUNTS, DEMAND_PAGES, STALL_NS
from hotset.runtime.gpu.device import Device, Event, Stream
from hotset.runtime.gpu.passes import DevicePass
from hotset.runtime.gpu.residency import DeviceResidency
from hotset.runtime.groups import Sequence
from hotset.runtime.paged_kv import PagedKV
from hotset.runtime.steps import Stats

DEPTH = 16
SPARE = 1 << 16
"""Slots that a step may change beyond one for each page it selects: what plans and ends of sequences bring about."""


class EventRing:
    """`DEPTH` records for the steps of one KV cache."""

    def __init__(self, kv: PagedKV, depth: int = DEPTH) -> None:
        self.kv = kv
        self.free = deque(Told(self) for _ in range(depth))
        """Records that no step has; the one that came last goes first, as its buffers are there."""
        self.full = 0
        """Steps that found no record."""
        self.counts = [0] * COUNTS
        """As of the last message: the thread's."""
        self.gap = True
        """Whether the step before was not told."""
        self.changes = Changes(self.manager.state)

    @property
    def manager(self) -> DeviceResidency:
        """The KV's manager, which is that of a device."""
        assert isinstance(self.kv.manager, DeviceResidency)
        return self.kv.manager

    def take(self, sequences: int, done: DevicePass) -> Told | None:
        """A record for a step of `sequences` rows that tell and more that are padded; None if there is none."""
        try:
            told = self.free.pop()
        except IndexError:
            self.full += 1
            return None
        told.begin(sequences, done)
        return told

    def leave(self, told: Told, done: DevicePass) -> None:
        """Behind the step's work on the demand stream: counts, slots and ranks join the record, its copies start."""
        told.start(self.manager, done)

    def give_back(self, told: Told) -> None:
        """The record can serve another step."""
        self.free.append(told)


class Told:
    """One record: first a step's buffers on the device, then their copies on the host, then its message."""

    def __init__(self, ring: EventRing) -> None:
        self._ring = ring
        self.recorded: Recorded | None = None
        self._host: list[torch.Tensor] = []
        self._before: list[int] | None = None
        self._room: tuple[int, ...] = ()
        self._most = 0
        self._distance: list[int] | None = None

    @property
    def _device(self) -> Device:
        return self._ring.manager.device

    def begin(self, sequences: int, done: DevicePass) -> None:
        """Make room for the accesses of a step."""
        kv = self._ring.kv
        rows, n = done.ids[0].shape[0], done.ids[0].shape[2]
        room, figures = (rows, kv.shape.layers, kv.shape.kv_heads, n), self._ring.manager.figures.now.numel()
        if room != self._room:
            place, pages = self._device.place, rows * kv.shape.layers * kv.shape.kv_heads * kv.config.selected
            self._most = min(self._ring.manager.state.slots, pages + SPARE)
            self.recorded = Recorded(
                *(torch.empty(room, dtype=d, device=place) for d in (torch.int32, torch.uint8, torch.uint8))
            )
            numbers, slots = (4 + COUNTS + figures,), (self._most,)
            kinds = ((room, torch.int32), (room, torch.uint8), (room, torch.uint8), (numbers, torch.int64),
                     (slots, torch.int32), (slots, torch.int32))  # fmt: skip
            self._host = [self._device.pinned(shape, dtype) for shape, dtype in kinds]
            if done.ahead is not None:
                self._host.append(self._device.pinned(tuple(done.ahead.ranks.shape), torch.int32))
            self._room = room
        self._sequences = sequences

    def start(self, manager: DeviceResidency, done: DevicePass) -> None:
        """Copy everything to the host, on the events stream."""
        device = self._device
        changed = self._ring.changes.look(self._most)
        numbers = torch.cat((changed.counts, manager.counts, manager.figures.now.flatten()))
        # The next step writes the ranks anew, and its copies may begin before ours have left.
        self._distance, ranks = (done.ahead.distance, [done.ahead.ranks]) if done.ahead else (None, [])
        parts = (*vars(self.recorded).values(), numbers, changed.loaded, changed.evicted, *ranks)
        device.wait(Stream.EVENTS, device.mark(Stream.DEMAND))
        with device.on(Stream.EVENTS):
            for source, target in zip(parts, self._host, strict=True):
                target.copy_(source, non_blocking=True)
        for part in parts[3:]:
            device.keep(part, Stream.EVENTS)
        self._copied = device.mark(Stream.EVENTS, sleep=True)

    def describe(self, sequences: list[Sequence], epoch: int, stats: Stats, new: list[tuple[int, int, int]]) -> None:
        """What the host knows of the step; from here on the record is the thread's.

        Behind a gap the step's movement is what the device has counted since the host last heard of it, not since the
        last message.
        """
        self._before, self._ring.gap = (self._ring.manager.heard if self._ring.gap else None), False
        self._epoch, self._stats, self._new = epoch, stats, new
        # Arrays are made on the thread: the device waits for the loop here.
        self._stood = [(s.id, s.length, s.step - 1) for s in sequences]

    def message(self) -> Step | None:
        """On the thread: wait for the copies, make the message, give the record back. None if too much has changed."""
        copied: Event = self._copied
        copied.synchronize()
        try:
            if int(self._host[3][:2].max()) <= self._most:
                return self._make()
            self._ring.counts = self._host[3][4 : 4 + COUNTS].tolist()
            return None
        finally:
            self._ring.give_back(self)

    def _make(self) -> Step:
        n, lanes = self._room[3], self._sequences * self._ring.kv.lanes
        # The arrays of a message belong to the link, those of the record to the next step.
        candidates, scores, flags = (t[: self._sequences].reshape(lanes, n).clone().numpy() for t in self._host[:3])
        loaded, evicted = (
            told[:count].clone().numpy()
            for told, count in zip(self._host[4:6], self._host[3][:2].tolist(), strict=True)
        )
        ids, lengths, steps = zip(*self._stood, strict=True)
        return Step(
            epoch=self._epoch,
            sequences=list(ids),
            stats=self._completed(self._host[3].tolist()),
            lengths=np.array(lengths, "<i4"),
            sequence_steps=np.array(steps, "<i4"),
            candidates=candidates,
            scores=scores,
            flags=flags,
            new_sequence=np.array([s for s, _, _ in self._new], "<i8"),
            new_group=np.array([g for _, g, _ in self._new], "<i4"),
            new_generation=np.array([v for _, _, v in self._new], "<u4"),
            loaded=loaded,
            evicted=evicted,
            **self._inside(),
        )

    def _inside(self) -> dict[str, npt.NDArray[np.int32]]:
        """Of a step that looked ahead: its figures by layer, and the ranks."""
        if self._distance is None:
            return {}
        figures = self._host[3][4 + COUNTS :].view(len(LayerFigure), -1).to(torch.int32, copy=True).numpy()
        ranks = self._host[6][:, : self._sequences].clone()
        return {"by_layer": figures, **lookahead_ranks(self._distance, ranks)}

    def _completed(self, numbers: list[int]) -> StepStats:
        """The stats, with what the device has counted since the step before."""
        _, _, reserve, free, *counts = numbers[: 4 + COUNTS]
        new = [now - then for now, then in zip(counts, self._before or self._ring.counts, strict=True)]
        self._ring.counts = counts
        prefetched = new[BEGUN][0]
        return self._stats().model_copy(
            update={
                "stall_us": new[STALL_NS] // 1000,
                "demand_pages": new[DEMAND_PAGES],
                "prefetch_pages": prefetched,
                "moved_bytes": (new[DEMAND_PAGES] + prefetched) * self._ring.manager.page_bytes,
                "reserve": reserve,
                "free": free,
            }
        )
