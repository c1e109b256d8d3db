"""Score: evict the page whose attention score at the last step was smallest.

every step: value = -score of each candidate; a page that is no candidate has score 0
victim:     the smallest score, then the least recently a candidate

As scores are below 256, -(256 * step + score), fixed when the page was last a candidate, keeps that order: whoever
is a candidate now comes before whoever is not. The eviction rule of H2O without accumulation (Zhang et al.,
"H2O: heavy-hitter oracle", NeurIPS 2023).
"""

from __future__ import annotations

import numpy as np

from hotset.predictor.policies.base import Clock, Float64, RankedPolicy
from hotset.predictor.trace.sequence import SequenceTrace
from hotset.protos.trace import TraceMeta


def _values(sequence: SequenceTrace, clock: Clock, meta: TraceMeta) -> Float64:
    return -(256 * clock.epochs[:, None, None] + sequence.scores).astype(np.float64)


POLICY = RankedPolicy("score", "attention score at the last step", values=_values)
