"""Which pages gained and which lost their slot since somebody last asked, on a backend whose host sees every change."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from hotset.kernels.state import ResidencyState

Int32 = npt.NDArray[np.int32]


class ChangeLog:
    """Evictions stand in the state's own log first, which has room for as many as there are slots."""

    def __init__(self, state: ResidencyState) -> None:
        self._state = state
        self._loaded: list[torch.Tensor] = []
        self._evicted: list[torch.Tensor] = []

    def loaded(self, pages: torch.Tensor) -> None:
        """`pages` ([n] int64) have got a slot."""
        self._loaded.append(pages)

    def keep_evicted(self) -> None:
        """Empty the state's log."""
        state = self._state
        if not (count := int(state.evicted_count)):
            return
        gone = state.evicted[: min(count, state.slots)].cpu().numpy()
        self._evicted.append(torch.from_numpy(gone[gone >= 0].astype(np.int64)))
        state.evicted_count.zero_()

    def forget(self) -> None:
        """Nobody wants to know what changed so far."""
        self._state.evicted_count.zero_()
        self._loaded.clear()
        self._evicted.clear()

    def drain(self) -> tuple[Int32, Int32]:
        """Pages that have a slot and pages that have none, of those that changed since the last call, both [n]."""
        self.keep_evicted()
        parts = [pages.cpu().numpy() for pages in (*self._loaded, *self._evicted)]
        touched = np.concatenate(parts).astype(np.int32) if parts else np.zeros(0, np.int32)
        self._loaded.clear()
        self._evicted.clear()
        # As np.unique does, which hashes integers: on the decode thread that takes twenty times as long.
        touched.sort()
        touched = touched[np.diff(touched, prepend=np.int32(-1)) != 0]
        resident = self._state.slot_of.cpu().numpy().take(touched) >= 0
        return touched[resident], touched[~resident]


class Unlogged(ChangeLog):
    """Keeps nothing: where a device finds what changed by itself, whoever logs must not fill the host's memory."""

    def loaded(self, pages: torch.Tensor) -> None:
        """See ChangeLog."""

    def keep_evicted(self) -> None:
        """See ChangeLog."""

    def forget(self) -> None:
        """See ChangeLog."""
