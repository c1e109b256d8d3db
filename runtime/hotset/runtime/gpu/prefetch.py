"""The prefetch stream: copies into FILLING slots beside the model's work, by whichever engine disturbs it least.

A kernel on a few SMs copies straight from the frames, by lists that only the device knows. Or the host gathers the
rows, the copy engine brings them over in one piece, and the device spreads them: that leaves the SMs alone, and is the
way for pages on disk (disk, staging, slot).
"""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import torch

from hotset.kernels.prefetch import Begun
from hotset.kernels.swap_in import rows_of, swap_in
from hotset.runtime.gpu.backing import DeviceBacking
from hotset.runtime.gpu.device import Device, Event, Stream

LARGE_PASS = 128
"""Tokens of a forward pass from which its matrix products are bound by arithmetic, not by memory. Beside such a
product 8 SMs of copying cost 12 to 21% and the copy engine 8%; beside a memory-bound kernel 3 to 5% and 1%
(docs/kernels.md), where an extra pass over host memory and a thread would buy little."""


def copy_engine_wins(tokens: int) -> bool:
    """Whether a prefetch that overlaps a forward pass of `tokens` tokens belongs on the copy engine."""
    return tokens >= LARGE_PASS


@dataclass(frozen=True)
class Flight:
    """A prefetch under way; lists as long as what was asked for, -1 where nothing was begun."""

    pages: torch.Tensor
    slots: torch.Tensor
    generations: torch.Tensor
    copied: Event | Future[Event]

    def arrived(self) -> bool:
        """Whether the copy is done."""
        if not isinstance(self.copied, Future):
            return self.copied.query()
        return self.copied.done() and self.copied.result().query()

    def event(self) -> Event:
        """The end of the copy; waits until the host's part is done, and raises what that raised."""
        return self.copied.result() if isinstance(self.copied, Future) else self.copied


class DevicePrefetcher:
    """Copies in order of `start`; `arrived` hands flights back in that order."""

    def __init__(self, device: Device, backing: DeviceBacking, rows: torch.Tensor) -> None:
        self._device, self._backing, self._rows = device, backing, rows
        self._bytes = rows_of(rows)
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="hotset-prefetch")
        self._flights: list[Flight] = []

    @property
    def filling(self) -> int:
        """Slots that flights hold at most."""
        return sum(flight.pages.numel() for flight in self._flights)

    def start(self, begun: Begun, *, staged: bool) -> None:
        """Copy what has begun, all on the device."""
        pages, slots = begun.pages, begun.slots
        # The low half of a count is one of 32 bits, as the copies take it.
        copied = self._stage(pages, slots) if staged else self._copy(pages, slots, begun.counts.view(torch.int32)[:1])
        self._flights.append(Flight(pages, slots, begun.generations, copied))

    def arrived(self, *, wait: bool) -> list[Flight]:
        """Finished flights. `wait`: all, and the demand stream goes on only behind their copies."""
        done = []
        while self._flights and (wait or self._flights[0].arrived()):
            flight = self._flights.pop(0)
            self._device.wait(Stream.DEMAND, flight.event())
            done.append(flight)
        return done

    def close(self) -> None:
        """Give up what has not begun and wait for the thread to end."""
        self._thread.shutdown(wait=True, cancel_futures=True)
        self._flights.clear()

    def _copy(self, pages: torch.Tensor, slots: torch.Tensor, count: torch.Tensor) -> Event:
        device = self._device
        device.wait(Stream.PREFETCH, device.mark(Stream.DEMAND))
        self._backing.host.await_writes(Stream.PREFETCH)
        with device.on(Stream.PREFETCH):
            swap_in(self._backing.host.bytes, self._bytes, pages, slots, count, frame_of=self._backing.frame_at)
        for tensor in (pages, slots, count):
            device.keep(tensor, Stream.PREFETCH)
        return device.mark(Stream.PREFETCH)

    def _stage(self, pages: torch.Tensor, slots: torch.Tensor) -> Future[Event]:
        lists = self._device.pinned((2, pages.numel()), torch.int32)
        lists[0].copy_(pages, non_blocking=True)
        lists[1].copy_(slots, non_blocking=True)
        return self._thread.submit(self._gather, lists, self._device.mark(Stream.DEMAND, sleep=True))

    def _gather(self, lists: torch.Tensor, listed: Event) -> Event:
        """On the thread. The slots are FILLING, so nobody else touches their rows."""
        listed.synchronize()
        pages, slots = lists[:, lists[0] >= 0].long()
        device = self._device
        with device.on(Stream.PREFETCH):
            if pages.numel():
                rows = device.upload(self._backing.gather(pages))
                self._rows.index_copy_(0, device.upload(slots), rows)
            return device.mark(Stream.PREFETCH, sleep=True)
