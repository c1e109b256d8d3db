"""LRU: evict the page whose last use is longest ago.

on use at t: value = -t
victim:      the largest value

The order of use within a step is the order of service of its lanes. Baseline of all tables; see Denning,
"The working set model for program behavior", CACM 1968.
"""

from __future__ import annotations

import numpy as np

from hotset.predictor.policies.base import Clock, Float64, RankedPolicy
from hotset.predictor.trace.sequence import SequenceTrace
from hotset.protos.trace import TraceMeta


def _values(sequence: SequenceTrace, clock: Clock, meta: TraceMeta) -> Float64:
    return np.where(sequence.selected, -clock.turns[:, :, None].astype(np.float64), np.nan)


POLICY = RankedPolicy("lru", "least recently used", values=_values)
