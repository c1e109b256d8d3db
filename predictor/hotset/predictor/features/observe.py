"""One observed step, written into the memory of pages and lanes (compiled)."""

from __future__ import annotations

import numpy as np
from numba import njit

from hotset.predictor.features.decay import AVERAGE_DECAYS, COUNT_DECAYS, HEAT_DECAY, MARGIN_DECAYS, NEAR_DECAYS, after
from hotset.predictor.features.memory import NEVER, Bool, Int32, LaneMemory, PageMemory, UInt8
from hotset.protos.features import CHURN_DECAY, GAPS, HALF_LIVES, SCORE_DECAYS
from hotset.protos.heat import DECAY, FLOOR

_DECAYS = np.array(SCORE_DECAYS)


@njit(cache=True)
def observe_step(
    memory: PageMemory, lanes: LaneMemory, heads: int, step: int, pages: Int32, scores: UInt8, selected: Bool
) -> None:
    """Record what every lane saw at `step`; pages [L, n] below memory.pages, -1 pad."""
    memory.selected_before[:] = memory.selecting
    memory.selecting[:] = 0
    for lane in range(pages.shape[0]):
        best = _observe_lane(lanes, memory, lane, step, pages[lane], scores[lane], selected[lane])
        for i in range(pages.shape[1]):
            page = pages[lane, i]
            if page < 0:
                continue
            margin = max(0.0, FLOOR + scores[lane, i] - max(best, 0.0))
            if selected[lane, i]:
                margin = max(margin, FLOOR)
            _see(memory, lane, page, step, scores[lane, i], margin)
            if selected[lane, i]:
                _use(memory, lane, page, step)
                memory.selecting[lane // heads, page] += 1
            else:
                _miss_out(memory, lane, page, step)
    _sum_layers(memory)


@njit(cache=True)
def _observe_lane(
    lanes: LaneMemory, memory: PageMemory, lane: int, step: int, pages: Int32, scores: UInt8, selected: Bool
) -> int:
    """Returns the best score that was not selected, -1 if there is none."""
    best, lowest, fresh, count = -1, 256, 0, 0
    for i in range(len(pages)):
        if pages[i] < 0:
            continue
        lowest = min(lowest, int(scores[i]))
        if selected[i]:
            count += 1
            fresh += memory.last_used[lane, pages[i]] != step - 1 or step == 0
        else:
            best = max(best, int(scores[i]))
    lanes.threshold[lane] = best if best >= 0 else np.nan
    lanes.floor[lane] = lowest if lowest < 256 else np.nan
    turnover = fresh / count if count else 0.0
    lanes.turnover[lane] = turnover
    if step <= 1:
        # All of the first selection is new; the second is the first that tells something.
        lanes.churn[lane] = turnover
    else:
        lanes.churn[lane] = CHURN_DECAY * lanes.churn[lane] + (1.0 - CHURN_DECAY) * turnover
    return best


@njit(cache=True)
def _see(memory: PageMemory, lane: int, page: int, step: int, score: int, margin: float) -> None:
    seen = memory.last_seen[lane, page]
    if seen != NEVER:
        memory.score_before[lane, page] = memory.last_score[lane, page]
    for i in range(len(_DECAYS)):
        aged = memory.averages[lane, page, i] * after(AVERAGE_DECAYS, step - seen, i) if seen != NEVER else 0.0
        memory.averages[lane, page, i] = aged + (1.0 - _DECAYS[i]) * score
    aged = memory.margin[lane, page] * after(MARGIN_DECAYS, step - seen, 0) if seen != NEVER else 0.0
    memory.margin[lane, page] = aged + (1.0 - DECAY) * margin
    memory.last_score[lane, page] = score
    memory.last_seen[lane, page] = step


@njit(cache=True)
def _use(memory: PageMemory, lane: int, page: int, step: int) -> None:
    last = memory.last_used[lane, page]
    gap = step - last if last != NEVER else 0
    if gap:
        for i in range(GAPS - 1, 0, -1):
            memory.gaps[lane, page, i] = memory.gaps[lane, page, i - 1]
        memory.gaps[lane, page, 0] = gap
    memory.streak[lane, page] = memory.streak[lane, page] + 1 if gap == 1 else 1
    for i in range(len(HALF_LIVES)):
        memory.counts[lane, page, i] = memory.counts[lane, page, i] * after(COUNT_DECAYS, gap, i) + 1.0
    memory.uses[lane, page] += 1
    memory.last_used[lane, page] = step


@njit(cache=True)
def _miss_out(memory: PageMemory, lane: int, page: int, step: int) -> None:
    at = memory.near_at[lane, page]
    aged = memory.near[lane, page] * after(NEAR_DECAYS, step - at, 0) if at != NEVER else 0.0
    memory.near[lane, page] = aged + 1.0
    memory.near_at[lane, page] = step


@njit(cache=True)
def _sum_layers(memory: PageMemory) -> None:
    layers, pages = memory.heat.shape
    memory.heat_before[:] = memory.heat
    for layer in range(layers):
        for page in range(pages):
            memory.below[layer + 1, page] = memory.below[layer, page] + memory.selecting[layer, page]
            memory.heat[layer, page] = memory.heat[layer, page] * HEAT_DECAY + memory.selecting[layer, page]
    for layer in range(layers - 1, -1, -1):
        for page in range(pages):
            memory.above[layer, page] = memory.above[layer + 1, page] + memory.selected_before[layer, page]
    for page in range(pages):
        total = np.float32(0.0)
        for layer in range(layers):
            total += memory.heat_before[layer, page]
        for layer in range(layers):
            total += memory.heat[layer, page] - memory.heat_before[layer, page]
            memory.heat_sum[layer, page] = total
