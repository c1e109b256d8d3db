"""One pass over the candidates of a step message each for what is checked and what is counted (compiled)."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from numba import njit

from hotset.protos.messages import AccessFlag

_SELECTED, _HIT, _PREFETCHED = (int(flag) for flag in (AccessFlag.SELECTED, AccessFlag.HIT, AccessFlag.PREFETCHED))
_ALL = _SELECTED | _HIT | _PREFETCHED


class Uses(NamedTuple):
    """Of one step, over all lanes."""

    selected: int
    hits: int
    prefetched: int


def fault(candidates: npt.NDArray[np.int32], flags: npt.NDArray[np.uint8], newest: npt.NDArray[np.int32]) -> str:
    """What is wrong with candidates and flags [rows, n] of sequences whose newest pages are [sequences], or nothing."""
    found = _fault(candidates, flags, newest, len(candidates) // max(1, len(newest)))
    return ("", "names a page below -1", "names a page beyond the end of its sequence", "has unknown flags")[found]


def count_uses(flags: npt.NDArray[np.uint8]) -> Uses:
    """Selections, hits and first uses of prefetched pages in flags [rows, n]."""
    return Uses(*_count(flags.reshape(-1)))


@njit(cache=True, nogil=True)
def _fault(candidates: Any, flags: Any, newest: Any, lanes: int) -> int:
    for row in range(len(candidates)):
        least, most, seen = np.int32(0), np.int32(-1), np.uint8(0)
        for i in range(candidates.shape[1]):
            least = min(least, candidates[row, i])
            most = max(most, candidates[row, i])
            seen |= flags[row, i]
        if least < -1:
            return 1
        if most > newest[row // lanes]:
            return 2
        if seen > _ALL:
            return 3
    return 0


@njit(cache=True, nogil=True)
def _count(flags: Any) -> Any:
    selected, hits, prefetched = 0, 0, 0
    for flag in flags:
        selected += flag & _SELECTED
        hits += (flag & _HIT) >> 1
        prefetched += (flag & _PREFETCHED) >> 2
    return selected, hits, prefetched
