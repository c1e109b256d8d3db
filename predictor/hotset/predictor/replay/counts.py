"""What a replay counts."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from hotset.predictor.trace.sequence import Int64


@dataclass
class Counts:
    """Counts of one policy over a batch; arrays are [epochs, layers]."""

    demand: Int64
    """demand misses, cold fills not among them"""
    prefetched: dict[int, Int64] = field(default_factory=dict)
    """layers early (0: planned before the step) -> pages prefetched"""
    accesses: int = 0
    cold_fills: int = 0
    prefetched_hits: int = 0

    @classmethod
    def zeros(cls, epochs: int, layers: int) -> Counts:
        return cls(np.zeros((epochs, layers), np.int64))

    def __add__(self, other: Counts) -> Counts:
        """Counts of two parts of the same batch together; the later one may end the batch."""
        early = self.prefetched.keys() | other.prefetched.keys()
        nothing = np.zeros((0, self.demand.shape[1]), np.int64)
        return Counts(
            _sum(self.demand, other.demand),
            {d: _sum(self.prefetched.get(d, nothing), other.prefetched.get(d, nothing)) for d in early},
            self.accesses + other.accesses,
            self.cold_fills + other.cold_fills,
            self.prefetched_hits + other.prefetched_hits,
        )

    @property
    def demand_misses(self) -> int:
        """Over all epochs and layers."""
        return int(self.demand.sum())

    @property
    def prefetched_pages(self) -> int:
        """Over all epochs and layers."""
        return sum(int(pages.sum()) for pages in self.prefetched.values())


def _sum(a: Int64, b: Int64) -> Int64:
    """Sum over epochs, the shorter one padded with zeros."""
    if len(a) < len(b):
        a, b = b, a
    total = a.copy()
    total[: len(b)] += b
    return total
