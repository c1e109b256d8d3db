"""Where sealed pages live when they have no slot: a host frame, or a disk block once the host is full."""

from __future__ import annotations

import threading

import numpy as np
import numpy.typing as npt
import torch

from hotset.runtime.tiers import DiskTier, HostTier, TierIOError

_CHUNK = 256


class BackingStore:
    """Maps physical pages to frames and blocks. Every sealed page has exactly one of the two.

    Shared by the decode loop and the prefetch thread; one lock covers both maps and the tiers, and long
    transfers let go of it between chunks so that a demand miss never waits for a whole prefetch.
    """

    def __init__(self, pages: int, host: HostTier, disk: DiskTier | None = None) -> None:
        self.host = host
        self.disk = disk
        self.frame_of = torch.full((pages,), -1, dtype=torch.int64)
        self.block_of = torch.full((pages,), -1, dtype=torch.int64)
        self.last_read = torch.zeros(pages, dtype=torch.int64)
        self._clock = 0
        self._lock = threading.Lock()

    def store(self, pages: torch.Tensor, rows: torch.Tensor) -> None:
        """Write `rows` through for `pages` ([n] int64, distinct, not stored yet).

        Makes room by demoting the coldest frames to disk. Raises TierFullError if neither tier has room.
        """
        for part, data in zip(torch.split(pages, _CHUNK), torch.split(rows, _CHUNK), strict=True):
            with self._lock:
                self._make_room(part.numel())
                frames = self.host.allocate(part.numel())
                self.host.write_from(frames, data)
                self.frame_of[part] = frames
                self._touch(part)
                self._moved(part)

    def fetch(self, pages: torch.Tensor, out: torch.Tensor, where: torch.Tensor) -> None:
        """Copy `pages` ([n] int64) into `out[where]`; pages that were freed meanwhile are skipped."""
        for part, target in zip(torch.split(pages, _CHUNK), torch.split(where, _CHUNK), strict=True):
            with self._lock:
                frame, block = self.frame_of[part], self.block_of[part]
                in_host, on_disk = frame >= 0, block >= 0
                self.host.read_into(frame[in_host], out, target[in_host])
                if self.disk is not None and bool(on_disk.any()):
                    self.disk.read_into(block[on_disk], out, target[on_disk])
                self._touch(part)

    def gather(self, pages: torch.Tensor) -> torch.Tensor:
        """Content of `pages` ([n] int64) in host memory, [n, *row_shape]; zeros for pages that were freed meanwhile."""
        out = torch.zeros((pages.numel(), *self.host.row_shape), dtype=self.host.dtype)
        for start in range(0, pages.numel(), _CHUNK):
            part = pages[start : start + _CHUNK]
            with self._lock:
                frame, block = self.frame_of[part], self.block_of[part]
                in_host = torch.nonzero(frame >= 0).flatten()
                out[start + in_host] = self.host.rows(frame[in_host])
                on_disk = torch.nonzero(block >= 0).flatten()
                if self.disk is not None and on_disk.numel():
                    self.disk.read_into(block[on_disk], out, start + on_disk)
                self._touch(part)
        return out

    def free(self, pages: torch.Tensor) -> None:
        """Forget `pages` ([n] int64), stored or not."""
        with self._lock:
            frame, block = self.frame_of[pages], self.block_of[pages]
            self.host.free(frame[frame >= 0])
            if self.disk is not None:
                self.disk.free(block[block >= 0])
            self.frame_of[pages] = -1
            self.block_of[pages] = -1
            self._moved(pages)

    def has(self, pages: torch.Tensor) -> torch.Tensor:
        """Which of `pages` ([n] int64) are stored, [n] bool."""
        return (self.frame_of[pages] >= 0) | (self.block_of[pages] >= 0)

    def may_have(self, pages: npt.NDArray[np.int32]) -> npt.NDArray[np.bool_]:
        """As `has`, for `pages` ([n]) of which some may be no pages at all, which count as stored."""
        frame, block = self.frame_of.numpy(), self.block_of.numpy()
        found: npt.NDArray[np.bool_] = (frame.take(pages, mode="clip") >= 0) | (block.take(pages, mode="clip") >= 0)
        return found | (pages < 0) | (pages >= len(frame))

    def _touch(self, pages: torch.Tensor) -> None:
        self._clock += 1
        self.last_read[pages] = self._clock

    def _make_room(self, count: int) -> None:
        short = count - self.host.free_rows
        if short <= 0 or self.disk is None:
            return
        held = torch.nonzero(self.frame_of >= 0).flatten()
        demoted = min(max(short, _CHUNK), held.numel(), self.disk.free_rows)
        coldest = held[torch.topk(self.last_read[held], demoted, largest=False).indices]
        blocks = self.disk.allocate(demoted)
        try:
            self.disk.write_from(blocks, self.host.rows(self.frame_of[coldest]))
        except TierIOError:
            self.disk.free(blocks)
            raise
        self.host.free(self.frame_of[coldest])
        self.frame_of[coldest] = -1
        self.block_of[coldest] = blocks
        self._moved(coldest)

    def _moved(self, pages: torch.Tensor) -> None:
        """The places of `pages` have changed; whoever mirrors them follows here."""

    def check_integrity(self) -> None:
        """Raise AssertionError if a page has both a frame and a block, or maps and tiers disagree."""
        with self._lock:
            assert not bool(((self.frame_of >= 0) & (self.block_of >= 0)).any()), "a page has a frame and a block"
            for place, tier in ((self.frame_of, self.host), (self.block_of, self.disk)):
                held = place[place >= 0]
                assert torch.unique(held).numel() == held.numel(), "two pages share a row"
                assert held.numel() == (tier.stats.used if tier else 0), "rows used and rows mapped differ"
                if tier:
                    tier.check_integrity()

    def close(self) -> None:
        """Give back files and pinned memory."""
        self.host.close()
        if self.disk is not None:
            self.disk.close()
