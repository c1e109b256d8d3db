"""The heuristic over a sequence's pages (hotset.protos.heat), and who is worth scoring by it. Compiled.

The averages are the features' own (`FeatureState.hot`); the runtime's built-in policy keeps the same ones.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import numpy.typing as npt

from hotset.predictor.features import FeatureState
from hotset.predictor.features.memory import NEVER
from hotset.protos.heat import CEILING, DECAY, EPSILON

Int32 = npt.NDArray[np.int32]
Float32 = npt.NDArray[np.float32]

COLDEST = CEILING - float(np.log2(EPSILON))
BINS = 64
_LEAST = -4.0
_PER_OCTAVE = BINS / (COLDEST - _LEAST)


def heat_values(features: FeatureState, lanes: Int32, pages: Int32) -> Float32:
    """log2 of steps to next use, as the average suggests. Arguments and result are [m]."""
    return _values(features.hot, features.steps - 1, lanes, pages)  # type: ignore[no-any-return]


@numba.njit(cache=True, nogil=True, inline="always")  # type: ignore[untyped-decorator, unused-ignore]
def _value(record: Any, now: int) -> Any:
    if record.last_seen == NEVER:
        return np.float32(COLDEST)
    idle = min(now - record.last_seen, 128)
    return np.float32(CEILING - np.log2(record.margin * DECAY**idle + EPSILON))


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator, unused-ignore]
def _values(hot: Any, now: int, lanes: Any, pages: Any) -> Any:
    out = np.empty(lanes.size, np.float32)
    for i in range(lanes.size):
        out[i] = _value(hot[lanes[i], pages[i]], now) if pages[i] < hot.shape[1] else np.float32(COLDEST)
    return out


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator, unused-ignore]
def nominate(
    groups: Any, resident: Any, hot: Any, now: int, blind: Any, recent: int, first: int, count: int,
    coldest: float, nearest: float, histogram: Any,
) -> Any:  # fmt: skip
    """Pages of one sequence worth a value: resident ones, and others that were candidates in `recent` steps.

    groups [n] int32 are the sealed groups in logical order; resident [groups * lanes] bool; hot [lanes, >= n]
    features.memory.HOT as of step `now`. Looks at `count` lanes from lane `first` on, but at none whose `blind`
    [lanes] is beyond the steps observed so far. Of resident pages only those that the heuristic gives at least
    `coldest`, and that were not used at `now`; of others those that it gives at most `nearest` (-inf and inf: all).
    `histogram` [BINS] counts the resident pages by heuristic value (see `cutoff`).
    Returns lanes, pages, physical pages ([m] int32) and whether each is resident ([m] bool).
    """
    total, full = hot.shape[0], min(groups.size, hot.shape[1])
    lanes = np.empty(count * full, np.int32)
    pages, physical = np.empty_like(lanes), np.empty_like(lanes)
    held = np.empty(count * full, np.bool_)
    m = 0
    for lane in range(first, first + count):
        if blind[lane] > now + 1:
            continue
        for page in range(full):
            place = groups[page] * total + lane
            record = hot[lane, page]
            seen = record.last_seen
            if not resident[place] and (seen == NEVER or seen <= now - recent):
                continue
            value = _value(record, now)
            if resident[place]:
                histogram[min(max(int((value - _LEAST) * _PER_OCTAVE), 0), BINS - 1)] += 1
                if value < coldest or (coldest > -np.inf and record.last_used == now and now >= 0):
                    continue
            elif value > nearest:
                continue
            lanes[m], pages[m], physical[m], held[m] = lane, page, place, resident[place]
            m += 1
    return lanes[:m].copy(), pages[:m].copy(), physical[:m].copy(), held[:m].copy()


def cutoff(histogram: npt.NDArray[np.int64], share: float) -> float:
    """The heuristic value from which the coldest `share` of what was counted begins."""
    colder = np.cumsum(histogram[::-1])[::-1]
    near = np.flatnonzero(colder >= share * max(1, int(histogram.sum())))
    return float(_LEAST + near[-1] / _PER_OCTAVE) if len(near) and near[-1] else -float("inf")
