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

    def add(self, other: Counts) -> None:
        """Add counts of another part of the same batch."""
        self.demand += other.demand
        for early, pages in other.prefetched.items():
            self.prefetched[early] = self.prefetched.get(early, 0) + pages
        self.accesses += other.accesses
        self.cold_fills += other.cold_fills
        self.prefetched_hits += other.prefetched_hits

    @property
    def demand_misses(self) -> int:
        return int(self.demand.sum())

    @property
    def prefetched_pages(self) -> int:
        return sum(int(pages.sum()) for pages in self.prefetched.values())
