"""What a tier is: numbered page rows that can be allocated, read, written and freed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch

from hotset.protos.errors import CapacityError


class TierFullError(CapacityError):
    """The tier has fewer free rows than were asked for."""


class TierIOError(CapacityError):
    """A row could not be read back or written; its content is lost to this tier."""


@dataclass
class TierStats:
    """Rows in use and traffic since the start."""

    capacity: int
    used: int = 0
    rows_read: int = 0
    rows_written: int = 0
    bytes_read: int = 0
    bytes_written: int = 0


class Tier(ABC):
    """A store of `capacity` rows of one shape and dtype. Row ids are int64 tensors of shape [n]."""

    def __init__(self, name: str, capacity: int, row_shape: tuple[int, ...], dtype: torch.dtype) -> None:
        if capacity < 0:
            raise ValueError(f"{name}: capacity must not be negative, got {capacity}")
        self.name = name
        self.row_shape = row_shape
        self.dtype = dtype
        self.row_bytes = torch.Size(row_shape).numel() * dtype.itemsize
        self.stats = TierStats(capacity)
        # The first `free_rows` are free, the last of them goes next.
        self._free = torch.arange(capacity - 1, -1, -1)
        self._used = torch.zeros(capacity, dtype=torch.bool)

    @property
    def free_rows(self) -> int:
        """Rows that allocate can still give."""
        return self.stats.capacity - self.stats.used

    def allocate(self, count: int) -> torch.Tensor:
        """Take `count` rows. Raises TierFullError, and takes none, if there are not that many."""
        left = self.free_rows - count
        if left < 0:
            raise TierFullError(
                f"{self.name} tier: {count} rows wanted, {self.free_rows} of {self.stats.capacity} free"
            )
        ids = self._free[left : self.free_rows].flip(0)
        self._used[ids] = True
        self.stats.used += count
        return ids

    def free(self, ids: torch.Tensor) -> None:
        """Give rows back; their content is gone. Raises ValueError, and frees none, if one is not allocated."""
        known = ids[(ids >= 0) & (ids < self.stats.capacity)]
        if (
            known.numel() < ids.numel()
            or not bool(self._used[known].all())
            or torch.unique(known).numel() < ids.numel()
        ):
            raise ValueError(f"{self.name} tier: some of {ids.numel()} rows are not allocated, or named twice")
        self._free[self.free_rows : self.free_rows + ids.numel()] = ids
        self._used[ids] = False
        self.stats.used -= ids.numel()

    def write_from(self, ids: torch.Tensor, rows: torch.Tensor) -> None:
        """Store `rows` ([n, *row_shape]) under `ids`."""
        self._write(ids, rows)
        self.stats.rows_written += ids.numel()
        self.stats.bytes_written += ids.numel() * self.row_bytes

    def read_into(self, ids: torch.Tensor, out: torch.Tensor, where: torch.Tensor) -> None:
        """Copy the rows `ids` to `out[where]` (both [n] int64), bit for bit."""
        self._read(ids, out, where)
        self.stats.rows_read += ids.numel()
        self.stats.bytes_read += ids.numel() * self.row_bytes

    @abstractmethod
    def _write(self, ids: torch.Tensor, rows: torch.Tensor) -> None: ...

    @abstractmethod
    def _read(self, ids: torch.Tensor, out: torch.Tensor, where: torch.Tensor) -> None: ...

    def close(self) -> None:  # noqa: B027 - most tiers hold nothing to give back
        """Give back whatever the tier holds outside this process's memory."""

    def check_integrity(self) -> None:
        """Raise AssertionError if free and used rows do not partition the tier."""
        free = self._free[: self.free_rows]
        assert self.stats.used == int(self._used.sum()), f"{self.name}: used count is off"
        assert torch.unique(free).numel() == free.numel(), f"{self.name}: a row is free twice"
        assert not bool(self._used[free].any()), f"{self.name}: a row is free and used"
