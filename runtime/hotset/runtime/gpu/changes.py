"""Which pages gained and lost a slot between two looks at the slots, found on the device: a step changes few."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from hotset.kernels.state import ResidencyState

Int32 = npt.NDArray[np.int32]


class Changed(NamedTuple):
    """Slots that hold another page than at the last look, on the device; both lists are as long as was allowed."""

    lost: torch.Tensor  # [limit] int32 pages that slots held before, -1 for none
    gained: torch.Tensor  # [limit] int32 pages that they hold now
    slots: torch.Tensor  # [1] int64 how many changed; beyond `limit` some are missing


class Changes:
    """Remembers what each slot held for all to see when somebody last looked."""

    def __init__(self, state: ResidencyState) -> None:
        self._state = state
        self._seen = torch.full_like(state.page_of, -1)
        self._slot = torch.arange(state.slots, dtype=torch.int32, device=state.page_of.device)

    def look(self, limit: int) -> Changed:
        """What has changed since the last look; nothing waits for the device."""
        state, seen = self._state, self._seen
        shown = (state.page_of >= 0) & (state.slot_of[state.page_of.clamp(min=0).long()] == self._slot)
        visible = torch.where(shown, state.page_of, -1)
        changed = visible != seen
        rank = torch.cumsum(changed, 0)
        # What has not changed, or does not fit, goes to an entry behind the lists.
        place = torch.where(changed & (rank <= limit), rank - 1, limit)
        lost, gained = (torch.full((limit + 1,), -1, dtype=torch.int32, device=seen.device) for _ in range(2))
        lost.scatter_(0, place, seen)
        gained.scatter_(0, place, visible)
        seen.copy_(visible)
        return Changed(lost[:limit], gained[:limit], rank[-1:])


def split_changes(lost: Int32, gained: Int32) -> tuple[Int32, Int32]:
    """Pages that gained and that lost their slot, [n] each; one that moved between slots is in neither."""
    lost, gained = lost[lost >= 0], gained[gained >= 0]
    return np.setdiff1d(gained, lost, assume_unique=True), np.setdiff1d(lost, gained, assume_unique=True)
