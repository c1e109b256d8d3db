"""The host tier of a GPU: frames in one page-locked pool, read and written by kernels over the link."""

from __future__ import annotations

import math
import mmap
from collections.abc import Callable
from contextlib import suppress

import torch

from hotset.kernels.swap_in import rows_of, swap_in
from hotset.protos.errors import CapacityError
from hotset.runtime.gpu.device import Device, Event, PinError, Stream
from hotset.runtime.gpu.upload import upload_together
from hotset.runtime.tiers import HostTier

CHUNK_BYTES = 1 << 30
Progress = Callable[[int, int], None]


class PinnedTier(HostTier):
    """`capacity` frames, pinned piece by piece; `progress` is told bytes pinned and bytes in all after each.

    Writes run on the write-back stream behind the demand stream; whoever reads on a stream calls `await_writes` first.
    Raises CapacityError that says how much was asked, how much could be had, and what to set.
    """

    def __init__(
        self,
        capacity: int,
        row_shape: tuple[int, ...],
        dtype: torch.dtype,
        device: Device,
        *,
        progress: Progress = lambda done, total: None,
        chunk_bytes: int = CHUNK_BYTES,
    ) -> None:
        self.device, self._progress, self._chunk = device, progress, chunk_bytes
        self._pinned: list[torch.Tensor] = []
        self._written: Event | None = None
        self._awaited: dict[Stream, Event] = {}
        self._counting = torch.empty(0, dtype=torch.int32, device=device.place)
        super().__init__(capacity, row_shape, dtype)
        if capacity and self.row_bytes % 4:
            raise CapacityError(f"pages of {self.row_bytes} bytes cannot be moved; choose an even --page-size")
        self.bytes = rows_of(self.frames)

    def await_writes(self, stream: Stream) -> None:
        """What `stream` gets from now on sees all rows written so far; the host does not wait."""
        if self._written is not None and self._awaited.get(stream) is not self._written:
            self.device.wait(stream, self._written)
            self._awaited[stream] = self._written

    def rows(self, ids: torch.Tensor) -> torch.Tensor:
        """See HostTier. Waits for rows that are being written."""
        if self._written is not None:
            self._written.synchronize()
        return self.frames[ids]

    def close(self) -> None:
        """Unpin all memory, once no stream reads it."""
        if self._pinned:
            self.device.synchronize()
        while self._pinned:
            self.device.unpin(self._pinned.pop())

    def _write(self, ids: torch.Tensor, rows: torch.Tensor) -> None:
        if not ids.numel():
            return
        device, count = self.device, ids.numel()
        source = rows.contiguous() if rows.device.type == device.place.type else device.upload(rows.contiguous())
        frames, total = upload_together(device, ids.to(torch.int32), torch.tensor([count], dtype=torch.int32))
        if self._counting.numel() < count:
            self._counting = torch.arange(count, dtype=torch.int32, device=device.place)
        device.wait(Stream.WRITE_BACK, device.mark(Stream.DEMAND))
        with device.on(Stream.WRITE_BACK):
            swap_in(rows_of(source), self.bytes, self._counting[:count], frames, total)
        for tensor in (source, frames, self._counting):  # `total` is a part of what holds `frames`
            device.keep(tensor, Stream.WRITE_BACK)
        self._written = device.mark(Stream.WRITE_BACK)

    def _read(self, ids: torch.Tensor, out: torch.Tensor, where: torch.Tensor) -> None:
        if not ids.numel():
            return
        self.await_writes(Stream.DEMAND)
        device = self.device
        frames, targets = device.upload(ids.to(torch.int32)), device.upload(where.to("cpu", torch.int32))
        total = torch.full((1,), ids.numel(), dtype=torch.int32, device=device.place)
        swap_in(self.bytes, rows_of(out), frames, targets, total)

    def _allocate(self) -> torch.Tensor:
        capacity, total = self.stats.capacity, self.stats.capacity * self.row_bytes
        if total == 0:
            return torch.empty((capacity, *self.row_shape), dtype=self.dtype)
        try:
            memory = torch.frombuffer(_reserve(total), dtype=torch.uint8)
        except (OSError, ValueError, OverflowError) as error:
            raise self._too_little(total, error) from error
        # Pieces end at rows and at memory pages, neither of which may be pinned twice.
        step = math.lcm(self.row_bytes, mmap.PAGESIZE)
        for piece in torch.split(memory, max(1, self._chunk // step) * step):
            self._pin(piece, total)
        return memory.view(self.dtype).view(capacity, *self.row_shape)

    def _pin(self, piece: torch.Tensor, total: int) -> None:
        try:
            self.device.pin(piece)
        except PinError as error:
            trouble = self._too_little(total, error)
            self.close()
            raise trouble from error
        self._pinned.append(piece)
        self._progress(sum(p.nbytes for p in self._pinned), total)

    def _too_little(self, total: int, error: Exception) -> CapacityError:
        had = sum(piece.nbytes for piece in self._pinned)
        return CapacityError(
            f"host frames take {total / 2**30:.2f} GiB of pinned memory and only {had / 2**30:.2f} GiB could be had "
            f"({error}); set --host-pages {had // self.row_bytes} or less and --disk-dir for the rest, "
            "or lower the context"
        )


def _reserve(size: int) -> mmap.mmap:
    """Address space without memory behind it yet; in large memory pages where the system has them."""
    space = mmap.mmap(-1, size)
    with suppress(OSError, AttributeError):
        space.madvise(mmap.MADV_HUGEPAGE)
    return space
