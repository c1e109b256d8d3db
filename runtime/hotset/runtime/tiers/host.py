"""The host tier: frames in ordinary memory. What a GPU reads is gpu/pinned.py."""

from __future__ import annotations

import torch

from hotset.protos.errors import CapacityError
from hotset.runtime.tiers.base import Tier


class HostTier(Tier):
    """`capacity` frames in one host allocation. Raises CapacityError if there is not so much memory."""

    def __init__(self, capacity: int, row_shape: tuple[int, ...], dtype: torch.dtype) -> None:
        super().__init__("host", capacity, row_shape, dtype)
        self.frames = self._allocate()

    def rows(self, ids: torch.Tensor) -> torch.Tensor:
        """Content of the rows `ids` in host memory, [n, *row_shape]."""
        return self.frames[ids]

    def _allocate(self) -> torch.Tensor:
        capacity = self.stats.capacity
        try:
            return torch.empty((capacity, *self.row_shape), dtype=self.dtype)
        except RuntimeError as error:
            need = capacity * self.row_bytes / 2**30
            raise CapacityError(
                f"cannot allocate {need:.1f} GiB of host frames ({error}); lower --host-pages or the context"
            ) from error

    def _write(self, ids: torch.Tensor, rows: torch.Tensor) -> None:
        self.frames[ids] = rows.to(self.frames.device)

    def _read(self, ids: torch.Tensor, out: torch.Tensor, where: torch.Tensor) -> None:
        out[where] = self.frames[ids].to(out.device)
