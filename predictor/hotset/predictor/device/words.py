"""The packed words of pages (compiled): one observed step, and rows of columns out of them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from numba import njit

from hotset.protos.device_features import (
    COUNT_UNITS,
    DECAY_STEPS,
    LONGEST,
    MARGIN_UNIT,
    NEW_WEIGHT,
    ONE,
    SCORE_UNIT,
    UNUSED,
    decay_tables,
)
from hotset.protos.features import CHURN_DECAY
from hotset.protos.heat import FLOOR

Int32 = npt.NDArray[np.int32]
Float32 = npt.NDArray[np.float32]
UInt8 = npt.NDArray[np.uint8]
Bool = npt.NDArray[np.bool_]

_LEFT = decay_tables().astype(np.int64)
_NAN = np.float32(np.nan)
_HALF, _NEW = ONE // 2, NEW_WEIGHT
_MOST = (1 << 16) - 1


class LaneView(NamedTuple):
    """What is remembered of each lane, [L]."""

    turnover: Float32
    churn: Float32
    threshold: Float32
    floor: Float32


@njit(cache=True, inline="always")
def _aged(amount: int, table: int, steps: int) -> int:
    return int(amount * _LEFT[table, min(steps, DECAY_STEPS - 1)] + _HALF) >> 15


@njit(cache=True, inline="always")
def _low(word: int) -> int:
    return int(word & 0xFFFF)


@njit(cache=True, inline="always")
def _high(word: int) -> int:
    return (word >> 16) & 0xFFFF


@njit(cache=True, inline="always")
def _last_seen(words: Int32) -> int:
    """Step of the last candidacy, -1 before it."""
    return int(words[0] & 0xFFFFFF) - 1


@njit(cache=True, inline="always")
def _last_score(words: Int32) -> int:
    return int(words[0] >> 24) & 0xFF


@njit(cache=True, inline="always")
def last_used(words: Int32) -> int:
    """Step of the last use of a page's `words`, -1 before it."""
    idle = _low(words[1])
    return _last_seen(words) - idle if words[0] != 0 and idle != UNUSED else -1


@njit(cache=True)
def observe_step(memory: Int32, view: LaneView, step: int, pages: Int32, scores: UInt8, selected: Bool) -> None:
    """Record what every lane saw at `step`; memory [L, P, WORDS], pages [L, n] below P, -1 pad."""
    for lane in range(pages.shape[0]):
        best = _observe_lane(memory[lane], view, lane, step, pages[lane], scores[lane], selected[lane])
        for i in range(pages.shape[1]):
            if pages[lane, i] >= 0:
                score = int(scores[lane, i])
                margin = max(int(FLOOR) + score - max(best, 0), int(FLOOR) if selected[lane, i] else 0)
                _see(memory[lane, pages[lane, i]], step, score, margin, selected[lane, i])


@njit(cache=True)
def _observe_lane(
    memory: Int32, view: LaneView, lane: int, step: int, pages: Int32, scores: UInt8, selected: Bool
) -> int:
    """Returns the best score that was not selected, -1 if there is none."""
    best, lowest, fresh, count = -1, 256, 0, 0
    for i in range(len(pages)):
        if pages[i] < 0:
            continue
        lowest = min(lowest, int(scores[i]))
        if selected[i]:
            count += 1
            fresh += last_used(memory[pages[i]]) != step - 1 or step == 0
        else:
            best = max(best, int(scores[i]))
    view.threshold[lane] = best if best >= 0 else _NAN
    view.floor[lane] = lowest if lowest < 256 else _NAN
    turnover = np.float32(fresh / count if count else 0.0)
    view.turnover[lane] = turnover
    old = view.churn[lane]
    view.churn[lane] = turnover if step <= 1 else CHURN_DECAY * old + (1.0 - CHURN_DECAY) * turnover
    return best


@njit(cache=True)
def _see(words: Int32, step: int, score: int, margin: int, used: bool) -> None:
    seen, idle, gap = _last_seen(words), _low(words[1]), _high(words[1])
    known, was_used = words[0] != 0, words[0] != 0 and idle != UNUSED
    waited = step - seen if known else 0
    short, long = _low(words[2]), _high(words[2])
    average, margins = _low(words[3]), _high(words[3])
    left = _LEFT[2, min(waited, DECAY_STEPS - 1)]
    average = min(_MOST, (average * left + SCORE_UNIT * score * _NEW + _HALF) >> 15)
    margins = min(_MOST, (margins * left + MARGIN_UNIT * margin * _NEW + _HALF) >> 15)
    idle = min(idle + waited, LONGEST) if was_used else UNUSED
    if used:
        gap = idle if was_used else 0
        short = min(_MOST, (_aged(short, 0, gap) if was_used else 0) + COUNT_UNITS[0])
        long = min(_MOST, (_aged(long, 1, gap) if was_used else 0) + COUNT_UNITS[1])
        idle = 0
    words[0] = np.int32((step + 1) | (score << 24))
    words[1] = np.int32(idle | (gap << 16))
    words[2] = np.int32(short | (long << 16))
    words[3] = np.int32(average | (margins << 16))


@njit(cache=True)
def last_events(memory: Int32) -> tuple[Int32, Int32]:
    """Steps of last use and last candidacy [L, P], -1 before them."""
    used = np.empty(memory.shape[:2], np.int32)
    seen = np.empty(memory.shape[:2], np.int32)
    for lane in range(memory.shape[0]):
        for page in range(memory.shape[1]):
            used[lane, page] = last_used(memory[lane, page])
            seen[lane, page] = _last_seen(memory[lane, page])
    return used, seen


@njit(cache=True)
def fill_rows(
    memory: Int32, view: LaneView, heads: int, step: int, newest: int, lanes: Int32, pages: Int32, out: Float32
) -> None:
    """Columns PAGE_FEATURES of pages [m] of lanes [m] as of `step` into out [m, F]; `newest` is the newest page."""
    for row in range(len(lanes)):
        lane, page = lanes[row], pages[row]
        threshold = view.threshold[lane]
        _own(memory[lane, page], threshold, step, out[row])
        out[row, 10] = newest - page
        out[row, 11] = page / max(newest, 1)
        for side in range(2):
            beside = page - 1 + 2 * side
            inside = 0 <= beside < memory.shape[1]
            out[row, 12 + side] = _age(memory[lane, beside], step) if inside else _NAN
            scored = inside and _last_seen(memory[lane, beside]) == step
            out[row, 14 + side] = _last_score(memory[lane, beside]) if scored else 0.0
        out[row, 16] = view.turnover[lane]
        out[row, 17] = view.churn[lane]
        out[row, 18] = threshold
        out[row, 19] = threshold - view.floor[lane]
        out[row, 20] = lane // heads


@njit(cache=True, inline="always")
def _age(words: Int32, step: int) -> np.float32:
    used = last_used(words)
    return np.float32(step - used) if used >= 0 else _NAN


@njit(cache=True)
def _own(words: Int32, threshold: np.float32, step: int, out: Float32) -> None:
    known, gap = words[0] != 0, _high(words[1])
    used, waited, score = last_used(words), step - _last_seen(words), _last_score(words)
    out[0] = step - used if used >= 0 else _NAN
    out[1] = gap if gap else _NAN
    for i in range(2):
        amount = _low(words[2]) if i == 0 else _high(words[2])
        out[2 + i] = _aged(amount, i, step - used) / COUNT_UNITS[i] if used >= 0 else 0.0
    out[4] = score if known and waited == 0 else _NAN
    out[5] = score if known else _NAN
    out[6] = waited if known else _NAN
    out[7] = score - threshold if known else _NAN
    out[8] = _aged(_low(words[3]), 2, waited) / SCORE_UNIT if known else 0.0
    out[9] = _aged(_high(words[3]), 2, waited) / MARGIN_UNIT if known else 0.0
