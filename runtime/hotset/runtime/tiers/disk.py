"""The disk tier: blocks of one anonymous file, so that nothing is left behind however the process ends."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import torch

from hotset.protos.errors import ConfigError
from hotset.runtime.tiers.base import Tier, TierIOError


class DiskTier(Tier):
    """`capacity` blocks in an unlinked file in `folder`. The file grows as blocks are first written."""

    def __init__(self, capacity: int, row_shape: tuple[int, ...], dtype: torch.dtype, folder: Path) -> None:
        super().__init__("disk", capacity, row_shape, dtype)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._file = tempfile.TemporaryFile(dir=folder, prefix="hotset-", buffering=0)  # noqa: SIM115
        except OSError as error:
            raise ConfigError(f"cannot keep the disk tier in {folder}: {error}; choose another --disk-dir") from error

    def _write(self, ids: torch.Tensor, rows: torch.Tensor) -> None:
        host = rows.contiguous().cpu().view(torch.uint8).numpy().reshape(ids.numel(), self.row_bytes)
        try:
            for block, row in zip(ids.tolist(), host, strict=True):
                _pwrite_all(self._file.fileno(), memoryview(row.data), block * self.row_bytes)
        except OSError as error:
            raise TierIOError(f"cannot write to the disk tier: {error}") from error

    def _read(self, ids: torch.Tensor, out: torch.Tensor, where: torch.Tensor) -> None:
        staging = bytearray(ids.numel() * self.row_bytes)
        view = memoryview(staging)
        for i, block in enumerate(ids.tolist()):
            part = view[i * self.row_bytes : (i + 1) * self.row_bytes]
            got = os.preadv(self._file.fileno(), [part], block * self.row_bytes)
            if got != self.row_bytes:
                raise TierIOError(f"disk block {block} is short: {got} of {self.row_bytes} bytes")
        if staging:
            rows = torch.frombuffer(staging, dtype=self.dtype).view(ids.numel(), *self.row_shape)
            out[where.to(out.device)] = rows.to(out.device)

    def close(self) -> None:
        """Close the file; its blocks are gone."""
        self._file.close()


def _pwrite_all(descriptor: int, data: memoryview, offset: int) -> None:
    done = 0
    while done < len(data):
        done += os.pwrite(descriptor, data[done:], offset + done)
