"""Which pages gained and lost their slot between two looks at the slots, found on the device: a step changes few."""

from __future__ import annotations

from typing import NamedTuple

import torch

from hotset.kernels.changes import find_changes
from hotset.kernels.state import ResidencyState


class Changed(NamedTuple):
    """On the device; behind its count a list means nothing. A page that went from slot to slot is in neither."""

    loaded: torch.Tensor  # [limit] int32 pages that are visible now and were not at the last look
    evicted: torch.Tensor  # [limit] int32 pages that were, and are not now
    counts: torch.Tensor  # [4] int64: loaded, evicted (beyond `limit` some are missing), slots RESERVED, slots FREE


class Changes:
    """Remembers what each slot showed when somebody last looked; 4 bytes a slot and one a physical page."""

    def __init__(self, state: ResidencyState) -> None:
        self._state = state
        self._seen = torch.full_like(state.page_of, -1)
        self._shown = torch.zeros(state.slot_of.shape, dtype=torch.bool, device=state.slot_of.device)

    def look(self, limit: int) -> Changed:
        """What has changed since the last look; nothing waits for the device."""
        place = self._seen.device
        loaded, evicted = (torch.empty(limit, dtype=torch.int32, device=place) for _ in range(2))
        found = Changed(loaded, evicted, torch.zeros(4, dtype=torch.int64, device=place))
        self.find(found)
        return found

    def find(self, into: Changed) -> None:
        """As `look`, written to tensors that are there."""
        find_changes(self._state, self._seen, self._shown, *into)
