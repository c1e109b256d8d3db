"""Margin EMA: evict the page whose score has lately stood lowest against its lane's selection threshold.

every step: threshold = best score of the lane that was not selected
            margin = max(0, FLOOR + score - threshold), at least FLOOR if selected, 0 if no candidate
            ema = DECAY * ema + (1 - DECAY) * margin
victim:     the smallest ema, then the least recently a candidate

Scores of flat and of peaked lanes differ by octaves, so a pool that lanes share evicts whole lanes by score EMA;
margins are comparable. The heuristic of the daemon and the runtime's built-in policy rank by the same average.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from hotset.predictor.policies.base import Clock, Float64, RankedPolicy
from hotset.predictor.trace.sequence import Bool, Int32, Int64, SequenceTrace, UInt8
from hotset.protos.heat import DECAY, FLOOR
from hotset.protos.trace import TraceMeta


def _values(sequence: SequenceTrace, clock: Clock, meta: TraceMeta) -> Float64:
    args = (sequence.pages, sequence.scores, sequence.selected, clock.epochs, sequence.page_count)
    return _run(*args, DECAY, FLOOR)


@njit(cache=True)
def _run(
    pages: Int32, scores: UInt8, selected: Bool, epochs: Int64, page_count: int, decay: float, floor: float
) -> Float64:
    steps, lanes, n = pages.shape
    values = np.full(pages.shape, np.nan)
    ema = np.zeros((lanes, page_count))
    seen = np.zeros((lanes, page_count), np.int64)
    slope = np.log2(decay)
    for t in range(steps):
        for lane in range(lanes):
            threshold = 0.0
            for i in range(n):
                if pages[t, lane, i] >= 0 and not selected[t, lane, i]:
                    threshold = max(threshold, float(scores[t, lane, i]))
            for i in range(n):
                page = pages[t, lane, i]
                if page < 0:
                    continue
                margin = floor + scores[t, lane, i] - threshold
                margin = max(margin, floor if selected[t, lane, i] else 0.0)
                aged = ema[lane, page] * decay ** (epochs[t] - seen[lane, page])
                ema[lane, page] = aged + (1 - decay) * margin
                seen[lane, page] = epochs[t]
                # A floor keeps the logarithm finite for averages of 0; it is below any that counts.
                values[t, lane, i] = -np.log2(ema[lane, page] + 1e-30) + epochs[t] * slope
    return values


POLICY = RankedPolicy(
    "margin-ema", f"moving average of margins to the selection threshold, decay {DECAY}", values=_values
)
