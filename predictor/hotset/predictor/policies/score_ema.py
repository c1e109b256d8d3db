"""Score EMA: evict the page with the smallest moving average of its attention score.

every step: ema = 0.7 * ema + 0.3 * score      (score 0 if the page is no candidate)
victim:     the smallest ema, then the least recently a candidate

All pages decay by the same factor a step, so -log2(ema) + t*log2(0.7), fixed when the page was last a
candidate, keeps their order and need not be touched again. The best plain heuristic of the development traces;
the idea is the aging of counters in LRFU (Lee et al., IEEE Trans. Computers 2001) with scores for references.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from hotset.predictor.policies.base import Clock, Float64, RankedPolicy
from hotset.predictor.trace.sequence import Int32, Int64, SequenceTrace, UInt8
from hotset.protos.trace import TraceMeta

DECAY = 0.7


def _values(sequence: SequenceTrace, clock: Clock, meta: TraceMeta) -> Float64:
    return _run(sequence.pages, sequence.scores, clock.epochs, sequence.page_count, DECAY)


@njit(cache=True)
def _run(pages: Int32, scores: UInt8, epochs: Int64, page_count: int, decay: float) -> Float64:
    steps, lanes, n = pages.shape
    values = np.full(pages.shape, np.nan)
    ema = np.zeros((lanes, page_count))
    seen = np.zeros((lanes, page_count), np.int64)
    slope = np.log2(decay)
    for t in range(steps):
        for lane in range(lanes):
            for i in range(n):
                page = pages[t, lane, i]
                if page < 0:
                    continue
                aged = ema[lane, page] * decay ** (epochs[t] - seen[lane, page])
                ema[lane, page] = aged + (1 - decay) * scores[t, lane, i]
                seen[lane, page] = epochs[t]
                # A floor keeps the logarithm finite for scores of 0; it is below any score that counts.
                values[t, lane, i] = -np.log2(ema[lane, page] + 1e-30) + epochs[t] * slope
    return values


POLICY = RankedPolicy("score-ema", f"moving average of scores, decay {DECAY}", values=_values)
