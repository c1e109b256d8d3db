"""Which pages gained and lost a slot between two looks at the slots."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from hotset.kernels.state import ResidencyState

Int32 = npt.NDArray[np.int32]


def visible_pages(state: ResidencyState) -> torch.Tensor:
    """The page that each slot holds for all to see, -1 where there is none: [S] int32, on the device."""
    slot = torch.arange(state.slots, dtype=torch.int32, device=state.page_of.device)
    holds = (state.page_of >= 0) & (state.slot_of[state.page_of.clamp(min=0).long()] == slot)
    return torch.where(holds, state.page_of, -1)


class Changes:
    """Remembers the last look at `slots` slots. A step changes few of them, so that comparing costs little."""

    def __init__(self, slots: int) -> None:
        self._seen: Int32 = np.full(slots, -1, np.int32)

    def since(self, visible: Int32) -> tuple[Int32, Int32]:
        """Pages that gained and that lost their slot since the last look, both [n]; each stands in one of them."""
        differ = np.flatnonzero(self._seen != visible)
        lost, gained = self._seen[differ], visible[differ]
        self._seen = visible.copy()
        lost, gained = lost[lost >= 0], gained[gained >= 0]
        # A page in both has moved from one slot to another.
        return np.setdiff1d(gained, lost, assume_unique=True), np.setdiff1d(lost, gained, assume_unique=True)
