"""Ghost pools: what a lane pool would hold and miss under a policy, without moving a byte (compiled)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from numba import njit

Bool = npt.NDArray[np.bool_]
Int32 = npt.NDArray[np.int32]
Float32 = npt.NDArray[np.float32]


class GhostPool:
    """One pool of `slots` pages for each of S lanes, kept by values that the caller gives. Rules: docs/replay.md."""

    def __init__(self, lanes: int, slots: int, pages: int) -> None:
        self._slots = slots
        self._resident: Bool = np.zeros((lanes, max(1, pages)), np.bool_)

    def reserve(self, pages: int) -> None:
        """Make room for pages below `pages`."""
        lanes, have = self._resident.shape
        if pages > have:
            more = np.zeros((lanes, max(pages, have * 3 // 2) - have), np.bool_)
            self._resident = np.concatenate([self._resident, more], axis=1)

    def victims(self, pages: Int32, selected: Bool) -> tuple[Int32, Int32]:
        """Lanes [m] (ascending) and pages [m] that may go: resident and not selected in this step's [S, n]."""
        return _victims(self._resident, pages, selected)

    def serve(self, pages: Int32, selected: Bool, lanes: Int32, victims: Int32, values: Float32) -> int:
        """Demand the selection, evicting the largest values of `victims()`; returns the misses."""
        return int(_serve(self._resident, self._slots, pages, selected, lanes, victims, values))


@njit(cache=True)
def _victims(resident: Bool, pages: Int32, selected: Bool) -> tuple[Int32, Int32]:
    may_go = resident.copy()
    for lane in range(pages.shape[0]):
        for i in range(pages.shape[1]):
            if selected[lane, i]:
                may_go[lane, pages[lane, i]] = False
    lanes, found = np.nonzero(may_go)
    return lanes.astype(np.int32), found.astype(np.int32)


@njit(cache=True)
def _serve(
    resident: Bool, slots: int, pages: Int32, selected: Bool, lanes: Int32, victims: Int32, values: Float32
) -> int:
    total, at = 0, 0
    for lane in range(pages.shape[0]):
        missing = 0
        for i in range(pages.shape[1]):
            if selected[lane, i] and not resident[lane, pages[lane, i]]:
                missing += 1
        total += missing
        first = at
        while at < len(lanes) and lanes[at] == lane:
            at += 1
        surplus = int(resident[lane].sum()) + missing - slots
        if surplus > 0:
            # Stable: among equals the lower page goes, as in replay.
            order = np.argsort(-values[first:at], kind="mergesort")
            for j in range(min(surplus, at - first)):
                resident[lane, victims[first + order[j]]] = False
        for i in range(pages.shape[1]):
            if selected[lane, i]:
                resident[lane, pages[lane, i]] = True
    return total
