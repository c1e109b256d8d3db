"""Which pages gained and lost a slot between two looks at the slots, found on the device: a step changes few."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from hotset.kernels.changes import find_changes
from hotset.kernels.state import ResidencyState

Int32 = npt.NDArray[np.int32]


class Changed(NamedTuple):
    """Slots that show another page than at the last look, on the device; what lies behind counts[0] means nothing."""

    lost: torch.Tensor  # [limit] int32 pages that slots showed before, -1 for none
    gained: torch.Tensor  # [limit] int32 pages that they show now, -1 for none
    counts: torch.Tensor  # [3] int64: how many changed (beyond `limit` some are missing), slots RESERVED, slots FREE


class Changes:
    """Remembers what each slot showed when somebody last looked."""

    def __init__(self, state: ResidencyState) -> None:
        self._state = state
        self._seen = torch.full_like(state.page_of, -1)

    def look(self, limit: int) -> Changed:
        """What has changed since the last look; nothing waits for the device."""
        place = self._seen.device
        lost, gained = (torch.empty(limit, dtype=torch.int32, device=place) for _ in range(2))
        found = Changed(lost, gained, torch.zeros(3, dtype=torch.int64, device=place))
        find_changes(self._state, self._seen, *found)
        return found


def split_changes(lost: Int32, gained: Int32) -> tuple[Int32, Int32]:
    """Pages that gained and that lost their slot, [n] each; one that moved between slots is in neither."""
    lost, gained = lost[lost >= 0], gained[gained >= 0]
    return np.setdiff1d(gained, lost, assume_unique=True), np.setdiff1d(lost, gained, assume_unique=True)
