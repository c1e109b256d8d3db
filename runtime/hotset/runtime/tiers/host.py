"""The host tier: frames in pinned (page-locked) memory, which the device reads at link speed."""

from __future__ import annotations

import torch

from hotset.protos.errors import CapacityError
from hotset.runtime.tiers.base import Tier


class HostTier(Tier):
    """`capacity` frames in one host allocation; pinned if there is a GPU to read it."""

    def __init__(self, capacity: int, row_shape: tuple[int, ...], dtype: torch.dtype) -> None:
        super().__init__("host", capacity, row_shape, dtype)
        try:
            self.frames = torch.empty((capacity, *row_shape), dtype=dtype, pin_memory=torch.cuda.is_available())
        except RuntimeError as error:
            need = capacity * self.row_bytes / 2**30
            raise CapacityError(
                f"cannot allocate {need:.1f} GiB of host frames ({error}); lower --host-gib or the context"
            ) from error

    def _write(self, ids: torch.Tensor, rows: torch.Tensor) -> None:
        self.frames[ids] = rows.to(self.frames.device)

    def _read(self, ids: torch.Tensor, out: torch.Tensor, where: torch.Tensor) -> None:
        out[where] = self.frames[ids].to(out.device)
