"""Averages of score margins of every page of one sequence (hotset.protos.heat), and who was seen lately. Compiled.

The runtime's built-in policy keeps the same averages. Decay is lazy: a cell is brought up to date when touched.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import numpy.typing as npt

from hotset.protos.heat import CEILING, DECAY, EPSILON, FLOOR

Int32 = npt.NDArray[np.int32]
UInt8 = npt.NDArray[np.uint8]
Float32 = npt.NDArray[np.float32]
Bool = npt.NDArray[np.bool_]

NEVER = -(1 << 30)
GROWTH = 256


class Heat:
    """`ema` and `seen` are [lanes, capacity]; `now` counts observed steps."""

    def __init__(self, lanes: int, pages: int = GROWTH) -> None:
        self.ema: Float32 = np.zeros((lanes, max(1, pages)), np.float32)
        self.seen: Int32 = np.full(self.ema.shape, NEVER, np.int32)
        self.now = 0

    def observe(self, pages: Int32, scores: UInt8, selected: Bool) -> None:
        """One step: candidates, all [lanes, n], pages padded with -1 and at most `grow`n to."""
        self.now += 1
        _observe(self.ema, self.seen, self.now, pages, scores, selected)

    def grow(self, pages: int) -> None:
        """Make room for page numbers below `pages`."""
        more = pages - self.ema.shape[1]
        if more > 0:
            wide = ((0, 0), (0, max(more, self.ema.shape[1] // 2)))
            self.ema = np.pad(self.ema, wide)
            self.seen = np.pad(self.seen, wide, constant_values=NEVER)

    def values(self, lanes: Int32, pages: Int32) -> Float32:
        """log2 of steps to next use, as the average suggests. Arguments and result are [m]."""
        return _values(self.ema, self.seen, self.now, lanes, pages)  # type: ignore[no-any-return]


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator, unused-ignore]
def _observe(ema: Any, seen: Any, now: int, pages: Any, scores: Any, selected: Any) -> None:
    for lane in range(pages.shape[0]):
        threshold = 0.0
        for i in range(pages.shape[1]):
            if pages[lane, i] >= 0 and not selected[lane, i]:
                threshold = max(threshold, float(scores[lane, i]))
        for i in range(pages.shape[1]):
            page = pages[lane, i]
            if page >= 0:
                margin = FLOOR + scores[lane, i] - threshold
                margin = max(margin, FLOOR if selected[lane, i] else 0.0)
                idle = min(now - seen[lane, page], 128)
                ema[lane, page] = ema[lane, page] * DECAY**idle + (1 - DECAY) * margin
                seen[lane, page] = now


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator, unused-ignore]
def _values(ema: Any, seen: Any, now: int, lanes: Any, pages: Any) -> Any:
    out = np.empty(lanes.size, np.float32)
    for i in range(lanes.size):
        idle = min(now - seen[lanes[i], pages[i]], 128)
        out[i] = CEILING - np.log2(ema[lanes[i], pages[i]] * DECAY**idle + EPSILON)
    return out


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator, unused-ignore]
def nominate(groups: Any, resident: Any, seen: Any, since: int, first: int, count: int) -> Any:
    """Pages of one sequence worth a value: resident ones, and others seen at step `since` or later.

    groups [n] int32 are the sealed groups in logical order; resident [groups * lanes] bool; seen
    [lanes, >= n]. Looks at `count` lanes from lane `first` on, wrapping around.
    Returns lanes, pages, physical pages ([m] int32) and whether each is resident ([m] bool).
    """
    total = seen.shape[0]
    found = 0
    for step in range(count):
        lane = (first + step) % total
        for page in range(groups.size):
            if resident[groups[page] * total + lane] or seen[lane, page] >= since:
                found += 1
    lanes = np.empty(found, np.int32)
    pages = np.empty(found, np.int32)
    physical = np.empty(found, np.int32)
    held = np.empty(found, np.bool_)
    i = 0
    for step in range(count):
        lane = (first + step) % total
        for page in range(groups.size):
            place = groups[page] * total + lane
            if resident[place] or seen[lane, page] >= since:
                lanes[i], pages[i], physical[i], held[i] = lane, page, place, resident[place]
                i += 1
    return lanes, pages, physical, held
