"""One observed step, written into the memory of pages and lanes in one pass over its candidates (compiled)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from hotset.predictor.features.bits import prefetch
from hotset.predictor.features.decay import (
    AVERAGE_DECAYS,
    COUNT_DECAYS,
    HEAT_DECAYS,
    MARGIN_DECAYS,
    NEAR_DECAYS,
    after,
)
from hotset.predictor.features.echo import EchoMemory, mark
from hotset.predictor.features.memory import FULL, NEVER, Bool, Int32, LaneMemory, PageMemory, Records, UInt8
from hotset.protos.features import CHURN_DECAY, GAPS, HALF_LIVES, SCORE_DECAYS
from hotset.protos.heat import DECAY, FLOOR

_DECAYS = np.array(SCORE_DECAYS, np.float32)
_ONE, _DECAY, _FLOOR = np.float32(1.0), np.float32(DECAY), np.float32(FLOOR)


@njit(cache=True, nogil=True)
def observe_step(
    memory: PageMemory,
    lanes: LaneMemory,
    echoes: EchoMemory,
    heads: int,
    step: int,
    pages: Int32,
    scores: UInt8,
    selected: Bool,
) -> None:
    """Record what the first len(pages) lanes saw at `step`; pages [l, n] below memory.pages, -1 pad."""
    chosen = echoes.chosen[step % 2]
    chosen[:] = NEVER
    for lane in range(len(pages)):
        if lane + 1 < len(pages):
            _fetch(memory, echoes, lane + 1, heads, pages[lane + 1], selected[lane + 1])
        best = _observe_lane(lanes, memory.hot[lane], lane, step, pages[lane], scores[lane], selected[lane])
        count = 0
        for i in range(pages.shape[1]):
            page = pages[lane, i]
            if page < 0:
                continue
            cold: Any = memory.cold[lane, page]
            hot: Any = memory.hot[lane, page]
            seen = hot.last_seen
            _average(cold, seen, step, scores[lane, i])
            _see(hot, step, scores[lane, i], best, selected[lane, i])
            if selected[lane, i]:
                if cold.near_lag != FULL:
                    cold.near_lag = min(cold.near_lag + step - seen, FULL - 1)
                mark(echoes.used[lane, page], hot.last_used, step)
                _use(hot, cold, step)
                _use_in_layer(memory.layers[page, lane // heads], step)
                chosen[lane, count] = page
                count += 1
            else:
                _miss_out(cold, seen, step)


@njit(cache=True, nogil=True)
def observe_heat(hot: Records, lanes: LaneMemory, step: int, pages: Int32, scores: UInt8, selected: Bool) -> None:
    """As `observe_step`, for a sequence that keeps nothing else."""
    for lane in range(len(pages)):
        best = _observe_lane(lanes, hot[lane], lane, step, pages[lane], scores[lane], selected[lane])
        for i in range(pages.shape[1]):
            if pages[lane, i] >= 0:
                record: Any = hot[lane, pages[lane, i]]
                _see(record, step, scores[lane, i], best, selected[lane, i])
                if selected[lane, i]:
                    record.last_used = step


@njit(cache=True, nogil=True)
def _fetch(memory: PageMemory, echoes: EchoMemory, lane: int, heads: int, pages: Int32, selected: Bool) -> None:
    """Have the records of a lane on their way before its turn: nearly each lies in a cache line of its own."""
    hot, cold, used = memory.hot[lane], memory.cold[lane], echoes.used[lane].reshape(-1)
    sums, layers, words = memory.layers.reshape(-1), memory.layers.shape[1], echoes.used.shape[2]
    for i in range(len(pages)):
        if pages[i] >= 0:
            prefetch(hot, pages[i])
            prefetch(cold, pages[i])
            if selected[i]:
                prefetch(used, pages[i] * words)
                prefetch(sums, pages[i] * layers + lane // heads)


@njit(cache=True, nogil=True)
def _observe_lane(
    lanes: LaneMemory, hot: Records, lane: int, step: int, pages: Int32, scores: UInt8, selected: Bool
) -> int:
    """Returns the best score that was not selected, -1 if there is none."""
    best, lowest, fresh, count = -1, 256, 0, 0
    for i in range(len(pages)):
        if pages[i] < 0:
            continue
        lowest = min(lowest, int(scores[i]))
        if selected[i]:
            record: Any = hot[pages[i]]
            count += 1
            fresh += record.last_used != step - 1 or step == 0
        else:
            best = max(best, int(scores[i]))
    lanes.threshold[lane] = best if best >= 0 else np.nan
    lanes.floor[lane] = lowest if lowest < 256 else np.nan
    turnover = fresh / count if count else 0.0
    lanes.turnover[lane] = turnover
    if step <= 1 or np.isnan(lanes.churn[lane]):
        # All of the first selection is new; the second is the first that tells something.
        lanes.churn[lane] = turnover
    else:
        lanes.churn[lane] = CHURN_DECAY * lanes.churn[lane] + (1.0 - CHURN_DECAY) * turnover
    return best


@njit(cache=True, nogil=True)
def _average(cold: Any, seen: int, step: int, score: int) -> None:
    for i in range(len(_DECAYS)):
        aged = cold.averages[i] * after(AVERAGE_DECAYS, step - seen, i) if seen != NEVER else np.float32(0.0)
        cold.averages[i] = aged + (_ONE - _DECAYS[i]) * np.float32(score)


@njit(cache=True, nogil=True)
def _see(hot: Any, step: int, score: int, best: int, selected: bool) -> None:
    margin = max(np.float32(0.0), _FLOOR + np.float32(score - max(best, 0)))
    if selected:
        margin = max(margin, _FLOOR)
    seen = hot.last_seen
    aged = hot.margin * after(MARGIN_DECAYS, step - seen, 0) if seen != NEVER else np.float32(0.0)
    hot.margin = aged + (_ONE - _DECAY) * margin
    if seen != NEVER:
        hot.score_before = hot.last_score
    hot.last_score = score
    hot.last_seen = step


@njit(cache=True, nogil=True)
def _use(hot: Any, cold: Any, step: int) -> None:
    last = hot.last_used
    gap = step - last if last != NEVER else 0
    if gap:
        for i in range(GAPS - 1, 0, -1):
            cold.gaps[i] = cold.gaps[i - 1]
        cold.gaps[0] = min(gap, FULL)
    cold.streak = min(cold.streak + 1, FULL) if gap == 1 else 1
    for i in range(len(HALF_LIVES)):
        cold.counts[i] = cold.counts[i] * after(COUNT_DECAYS, gap, i) + _ONE
    cold.uses += 1
    hot.last_used = step


@njit(cache=True, nogil=True)
def _use_in_layer(sums: Any, step: int) -> None:
    last = sums.used_at
    if last != step:
        sums.before = sums.now if last == step - 1 else 0
        sums.heat = sums.heat * after(HEAT_DECAYS, step - last, 0) if last != NEVER else np.float32(0.0)
        sums.now = 0
        sums.used_at = step
    sums.now += 1
    sums.heat += _ONE


@njit(cache=True, nogil=True)
def _miss_out(cold: Any, seen: int, step: int) -> None:
    aged = np.float32(0.0)
    if cold.near_lag != FULL:
        aged = cold.near * after(NEAR_DECAYS, step - seen + cold.near_lag, 0)
    cold.near = aged + _ONE
    cold.near_lag = 0
