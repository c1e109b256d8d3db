"""What is remembered of each page of each lane of one sequence. All decay is lazy: as of the event's step.

A candidate touches one record of 16 bytes, which is all that the heuristic and the page's neighbours ask for, and
one of 48; a selected page also the 64 bytes of its echoes and 12 of its layer. Steps count from 0 at the first
one observed.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from hotset.protos.features import GAPS, HALF_LIVES, SCORE_DECAYS

Int32 = npt.NDArray[np.int32]
Float32 = npt.NDArray[np.float32]
UInt8 = npt.NDArray[np.uint8]
UInt64 = npt.NDArray[np.uint64]
Bool = npt.NDArray[np.bool_]
Records = npt.NDArray[Any]
"""of a structured dtype"""

NEVER = -1
LINE = 64
FULL = 65535
"""where counts of two bytes stop"""

HOT = np.dtype(
    [
        ("last_used", "<i4"),  # step of the last selection, NEVER before it
        ("last_seen", "<i4"),  # step of the last candidacy, NEVER before it
        ("margin", "<f4"),  # margin average as of last_seen
        ("score_before", "<i2"),  # score of the candidacy before the last, -1 if there was none
        ("last_score", "u1"),
        ("spare", "u1"),
    ],
    align=True,
)
COLD = np.dtype(
    [
        ("uses", "<i4"),
        ("near", "<f4"),  # decayed count of candidacies without selection, as of the last of them
        ("counts", "<f4", (len(HALF_LIVES),)),  # as of last_used
        ("averages", "<f4", (len(SCORE_DECAYS),)),  # of scores, as of last_seen
        ("gaps", "<u2", (GAPS,)),  # newest first, 0 for none
        ("near_lag", "<u2"),  # steps from the last candidacy without selection to last_seen, FULL before it
        ("streak", "<u2"),
    ],
    align=True,
)
LAYER = np.dtype(
    [
        ("used_at", "<i4"),  # last step at which a head of the layer selected the page, NEVER before it
        ("heat", "<f4"),  # decayed count of uses by all heads of the layer, as of used_at
        ("now", "<u2"),  # heads that selected the page at used_at
        ("before", "<u2"),  # and at the step before it
    ],
    align=True,
)


class PageMemory(NamedTuple):
    """`hot` and `cold` are [L, P] records, `layers` [P, layers]."""

    hot: Records
    cold: Records
    layers: Records

    @property
    def pages(self) -> int:
        """Pages that fit."""
        return int(self.hot.shape[1])

    @property
    def last_used(self) -> Int32:
        """[L, P] step of the last selection, NEVER before it; a view."""
        used: Int32 = self.hot["last_used"]
        return used

    @property
    def last_seen(self) -> Int32:
        """[L, P] step of the last candidacy, NEVER before it; a view."""
        seen: Int32 = self.hot["last_seen"]
        return seen


class LaneMemory(NamedTuple):
    """What is remembered of each lane, [L]."""

    threshold: Float32
    floor: Float32
    turnover: Float32
    churn: Float32


def make_hot(lanes: int, pages: int) -> Records:
    """Nothing used or seen yet."""
    hot = aligned((lanes, pages), HOT)
    hot["last_used"] = hot["last_seen"] = NEVER
    hot["score_before"] = -1
    return hot


def make_pages(hot: Records, layers: int) -> PageMemory:
    """`hot` as it is, and the rest as of pages that were never used."""
    lanes, pages = hot.shape
    cold = aligned((lanes, pages), COLD)
    cold["near_lag"] = FULL
    sums = aligned((pages, layers), LAYER)
    sums["used_at"] = NEVER
    return PageMemory(hot, cold, sums)


def make_lanes(lanes: int) -> LaneMemory:
    """Nothing observed yet: a churn of NaN is replaced by the first turnover."""
    nan = np.full(lanes, np.nan, np.float32)
    return LaneMemory(nan, nan.copy(), nan.copy(), nan.copy())


def grown_hot(hot: Records, pages: int) -> Records:
    """A copy with room for `pages` pages."""
    larger = make_hot(len(hot), pages)
    larger[:, : hot.shape[1]] = hot
    return larger


def grown(memory: PageMemory, hot: Records) -> PageMemory:
    """A copy that goes with `hot`, which is larger."""
    larger = make_pages(hot, memory.layers.shape[1])
    larger.cold[:, : memory.pages] = memory.cold
    larger.layers[: memory.pages] = memory.layers
    return larger


def aligned(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Records:
    """Zeros that begin with a cache line, so that no record of a power of two of bytes spans two.

    They are written, so that the kernel gives the memory now, and not while steps are observed.
    """
    size = int(np.prod(shape)) * dtype.itemsize
    room = np.empty(size + LINE, np.uint8)
    room.fill(0)
    start = -room.ctypes.data % LINE
    return room[start : start + size].view(dtype).reshape(shape)
