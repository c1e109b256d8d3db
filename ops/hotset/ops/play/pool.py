"""The pool of slots of an engine without a model: residency as far as the wire can tell."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from hotset.protos.messages import Geometry

Int32 = npt.NDArray[np.int32]
Bool = npt.NDArray[np.bool_]
NEVER = -1


class Pool:
    """Which physical pages have a slot. `value` holds until epoch `until`; after it, age decides."""

    def __init__(self, geometry: Geometry) -> None:
        pages = geometry.groups * geometry.lanes
        self.slots = geometry.slots
        self.resident: Bool = np.zeros(pages, np.bool_)
        self.used: npt.NDArray[np.int64] = np.full(pages, NEVER, np.int64)
        self.value: npt.NDArray[np.float32] = np.zeros(pages, np.float32)
        self.until: npt.NDArray[np.int64] = np.full(pages, NEVER, np.int64)

    @property
    def free(self) -> int:
        """Slots that hold nothing."""
        return self.slots - int(np.count_nonzero(self.resident))

    def load(self, pages: Int32, epoch: int) -> Int32:
        """Make `pages` ([m], not resident) resident; returns the victims. Pages used at `epoch` stay."""
        short = len(pages) - self.free
        victims = self._victims(short, epoch) if short > 0 else np.empty(0, np.int32)
        self.resident[victims] = False
        self.resident[pages] = True
        return victims

    def use(self, pages: Int32, epoch: int) -> None:
        """Mark pages as used; what a plan said of them before is void."""
        self.used[pages] = epoch
        self.until[pages] = NEVER

    def drop(self, pages: Int32) -> None:
        """Nobody holds `pages` any more: they have no slot, and whoever gets them next starts as new."""
        self.resident[pages] = False
        self.used[pages] = self.until[pages] = NEVER

    def victims(self, epoch: int) -> int:
        """How many resident pages were not used at `epoch` or later."""
        return int(np.count_nonzero(self.resident & (self.used < epoch)))

    def check_integrity(self) -> None:
        """Raise AssertionError if more pages are resident than there are slots."""
        assert self.free >= 0, "more pages are resident than there are slots"

    def _victims(self, count: int, epoch: int) -> Int32:
        pages = np.flatnonzero(self.resident & (self.used < epoch))
        planned = self.until[pages] >= epoch
        # Age in the currency of plans: what was used n steps ago is expected back in n steps.
        badness = np.where(planned, self.value[pages], np.log2(epoch - self.used[pages] + 1))
        order = np.argsort(-badness, kind="stable")[:count]
        return pages[order].astype(np.int32)
