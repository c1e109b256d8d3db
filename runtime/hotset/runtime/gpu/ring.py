"""Step events leave the device through a ring of pinned records, copied on a stream of their own.

    demand stream   behind the pass, what the step tells is written into its record on the device
    events stream   behind that, the record is copied into one of those that are pinned
    a thread        waits for the copy, makes the message, and gives the pinned record back

A step waits for none of this. If every record is under way, the step is not told: it is counted, and the gap in the
sequence numbers has a listener ask for a snapshot, as at any other high-water mark.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import torch

from hotset.protos.messages import LayerFigure, Step, StepStats
from hotset.runtime.events import lookahead_ranks
from hotset.runtime.gpu.behind import Behind
from hotset.runtime.gpu.changes import Changes
from hotset.runtime.gpu.counts import BEGUN, COUNTS, DEMAND_PAGES, STALL_NS
from hotset.runtime.gpu.device import Event
from hotset.runtime.gpu.passes import DevicePass
from hotset.runtime.gpu.residency import DeviceResidency
from hotset.runtime.gpu.step_record import StepRecord
from hotset.runtime.groups import Sequence
from hotset.runtime.paged_kv import PagedKV
from hotset.runtime.steps import Stats

DEPTH = 16


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

    def take(self) -> Told | None:
        """A record for a step that tells; None if there is none."""
        try:
            return self.free.pop()
        except IndexError:
            self.full += 1
            return None

    def give_back(self, told: Told) -> None:
        """The record can serve another step."""
        self.free.append(told)


class Told:
    """One record on the host: a step's copies, then its message."""

    def __init__(self, ring: EventRing) -> None:
        self._ring = ring
        self.host: StepRecord | None = None
        """There from its first step on."""
        self._before: list[int] | None = None
        self._distance: list[int] | None = None

    def fill(self, done: DevicePass, behind: Behind, rows: Mapping[int, Sequence]) -> None:
        """Start copying what the last step left `behind`; `rows` of its record tell of a sequence."""
        kinds = behind.kinds
        if self.host is None or self.host.kinds != kinds:
            self.host = StepRecord(kinds, self._ring.manager.device.pinned)
        # The rows are the first ones, unless some of a pass have ended.
        self._rows = slice(len(rows)) if len(rows) > max(rows) else list(rows)
        # Arrays are made on the thread: the device may wait for the loop.
        self._stood = [(s.id, s.length, s.step) for s in rows.values()]
        self._distance = None if done.ahead is None else done.ahead.distance
        self._copied: Event = behind.copy(self.host)

    def describe(self, epoch: int, stats: Stats, new: list[tuple[int, int, int]]) -> None:
        """What the host knows of the step; from here on the record is the thread's.

        Behind a gap the step's movement is what the device has counted since the host last heard of it, not since the
        last message.
        """
        self._before, self._ring.gap = (self._ring.manager.heard if self._ring.gap else None), False
        self._epoch, self._stats, self._new = epoch, stats, new

    def message(self) -> Step | None:
        """On the thread: wait for the copy, make the message, give the record back. None if too much has changed."""
        self._copied.synchronize()
        host = self.host
        assert host is not None, "nothing was copied"
        try:
            if int(host.changed.counts[:2].max()) <= host.changed.loaded.numel():
                return self._make(host)
            self._ring.counts = host.counts.tolist()
            return None
        finally:
            self._ring.give_back(self)

    def _make(self, host: StepRecord) -> Step:
        told, lanes = host.accessed, len(self._stood) * self._ring.kv.lanes
        # The arrays of a message belong to the link, those of the record to the next step.
        candidates, scores, flags = (
            part[self._rows].reshape(lanes, -1).clone().numpy() for part in (told.candidates, told.scores, told.flags)
        )
        loaded, evicted = (
            pages[:count].clone().numpy()
            for pages, count in zip(host.changed[:2], host.changed.counts[:2].tolist(), strict=True)
        )
        ids, lengths, steps = zip(*self._stood, strict=True)
        return Step(
            epoch=self._epoch,
            sequences=list(ids),
            stats=self._completed(host),
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
            **self._inside(host),
        )

    def _inside(self, host: StepRecord) -> dict[str, npt.NDArray[np.int32]]:
        """Of a step that looked ahead: its figures by layer, and the ranks."""
        if self._distance is None or host.ranks is None:
            return {}
        figures = host.figures.view(len(LayerFigure), -1).to(torch.int32, copy=True).numpy()
        return {"by_layer": figures, **lookahead_ranks(self._distance, host.ranks[:, self._rows].clone())}

    def _completed(self, host: StepRecord) -> StepStats:
        """The stats, with what the device has counted since the step before."""
        counts = host.counts.tolist()
        _, _, reserve, free = host.changed.counts.tolist()
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
