"""The backing store of a GPU: the host's maps, and on the device a mirror of the frames, which swap_in reads."""

from __future__ import annotations

import torch

from hotset.runtime.backing import BackingStore
from hotset.runtime.gpu.device import Device
from hotset.runtime.gpu.pinned import PinnedTier
from hotset.runtime.gpu.upload import upload_together
from hotset.runtime.tiers import DiskTier


class DeviceBacking(BackingStore):
    """`frame_at` [P] int32 on the device is `frame_of` as of the work that the demand stream has been given."""

    host: PinnedTier

    def __init__(self, pages: int, host: PinnedTier, disk: DiskTier | None, device: Device) -> None:
        super().__init__(pages, host, disk)
        self._device = device
        self.frame_at = torch.full((pages,), -1, dtype=torch.int32, device=device.place)

    def note_reads(self, pages: torch.Tensor) -> None:
        """Swap-ins have read `pages` ([n] int64): they are the last that pressure on the host would send to disk."""
        with self._lock:
            self._touch(pages)

    def _moved(self, pages: torch.Tensor) -> None:
        if pages.numel():
            frames, where = upload_together(self._device, self.frame_of[pages].to(torch.int32), pages)
            self.frame_at[where] = frames

    def check_integrity(self) -> None:
        """See BackingStore; the mirror is exact, too."""
        super().check_integrity()
        assert torch.equal(self.frame_at.cpu().long(), self.frame_of), "the device's table of frames is off"
