"""Misses over slots, of one running sequence."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Float64 = npt.NDArray[np.float64]

RESOLUTION = 16
"""Bins of the histogram in an octave of distance."""
BINS = 32 * RESOLUTION
EDGES: Float64 = 2.0 ** (np.arange(BINS + 1) / RESOLUTION) - 1
"""Slots at which each bin begins."""


@dataclass(frozen=True)
class MissCurve:
    """`histogram` [BINS]: accesses a step by log of reuse distance; `cold`: first uses, which every size misses."""

    histogram: Float64
    cold: float

    def misses(self, slots: Float64) -> Float64:
        """Misses a step with a share of `slots` each, any shape; they fall as slots grow."""
        beyond = np.concatenate([np.cumsum(self.histogram[::-1])[::-1], [0.0]])
        found: Float64 = np.interp(slots, EDGES, beyond) + self.cold
        return found

    def of_pool(self, slots: Float64, running: Float64) -> Float64:
        """Misses a step of `running` sequences that share `slots`."""
        total: Float64 = running * self.misses(slots / running)
        return total
