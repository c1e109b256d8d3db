"""Labels: when is each page of each lane used next."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from numba import njit

from hotset.predictor.trace.sequence import Bool, Int32, SequenceTrace

Float32 = npt.NDArray[np.float32]

NO_USE = np.iinfo(np.int32).max


def next_uses(sequence: SequenceTrace) -> tuple[Int32, Int32]:
    """When pages are used next, counted in `sequence.steps`; NO_USE if not before the window ends.

    Returns `first` [lanes, P], the first use in the window, and `following` [T, lanes, n], the use that follows
    step t of a candidate selected at t (undefined for the others).
    """
    return _next_uses(sequence.pages, sequence.selected, sequence.steps, sequence.page_count)


@njit(cache=True)
def _next_uses(pages: Int32, selected: Bool, steps: Int32, page_count: int) -> tuple[Int32, Int32]:
    count, lanes, n = pages.shape
    upcoming = np.full((lanes, page_count), NO_USE, np.int32)
    following = np.full((count, lanes, n), NO_USE, np.int32)
    for t in range(count - 1, -1, -1):
        for lane in range(lanes):
            for i in range(n):
                if selected[t, lane, i]:
                    page = pages[t, lane, i]
                    following[t, lane, i] = upcoming[lane, page]
                    upcoming[lane, page] = steps[t]
    return upcoming, following


@njit(cache=True)
def advance(upcoming: Int32, pages: Int32, selected: Bool, following: Int32) -> None:
    """Move `upcoming` [lanes, P] (next use at or after a step) past that step; the others are [lanes, n]."""
    for lane in range(pages.shape[0]):
        for i in range(pages.shape[1]):
            if selected[lane, i]:
                upcoming[lane, pages[lane, i]] = following[lane, i]


def log_steps(upcoming: Int32, now: int, end: int) -> tuple[Float32, Bool]:
    """log2 of steps from `now` to the uses `upcoming`, and which are censored.

    A page not used again by `end`, the last step of the window, is censored: its label is log2 of the least
    number of steps that it can be, end - now + 1.
    """
    censored: Bool = upcoming == NO_USE
    steps = np.where(censored, end + 1, upcoming).astype(np.float64) - now
    return np.log2(steps).astype(np.float32), censored
