"""What a model of the load promises of concurrencies that were not tried."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Float64 = npt.NDArray[np.float64]


class Promise(NamedTuple):
    """`rates`: tokens a second at each of `counts`, which ascend."""

    counts: Float64
    rates: Float64

    @property
    def best(self) -> int:
        """The concurrency that promises most."""
        return int(self.counts[np.argmax(self.rates)])

    def at(self, count: int) -> float:
        """Tokens a second at one concurrency, between those that were asked for."""
        return float(np.interp(count, self.counts, self.rates))

    def best_within(self, low: int, high: int) -> int:
        """The concurrency from low to high that promises most; the lowest of equals."""
        counts = np.arange(low, high + 1)
        return int(counts[np.argmax(np.interp(counts, self.counts, self.rates))])
