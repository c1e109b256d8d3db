"""What a step tells the device, in buffers that stay where they are, so that captured graphs find them."""

from __future__ import annotations

import numpy as np
import torch

from hotset.runtime.generation import Generation
from hotset.runtime.gpu.device import Device
from hotset.runtime.lookahead.book import Clocks, FeatureBook
from hotset.runtime.selectors import Batch

_ROWS = 10
_PADDED = np.array([[0], [0], [0], [0], [-1], [0], [0]], np.int32)


class StepInputs:
    """Buffers for `rows` rows with page tables of `width` groups. A padded row has no page, no tail, no token to read.

    `tokens` and `positions` are [rows, 1]; `tails` (group of the tail, -1 if padded), `offsets` (place of the new token
    in it) and `last` (tokens in it, the new one included) are [rows]; all int32. `clocks` are those of a FeatureBook.
    """

    def __init__(self, device: Device, rows: int, width: int, page_size: int) -> None:
        self._page_size = page_size
        self._pair = [device.pinned((_ROWS, rows), torch.int32) for _ in range(2)]
        """Filled in turn: one may still be on its way, for a pass that waits for the one before it."""
        self._table = device.pinned((rows, width), torch.int32).fill_(-1)
        self._on_device = torch.zeros(_ROWS, rows, dtype=torch.int32, device=device.place)
        groups = torch.full((rows, width), -1, dtype=torch.int32, device=device.place)
        tokens, positions, pages, lengths, self.tails, self.offsets, self.last, *clocks = self._on_device
        self.clocks = Clocks(*clocks)
        self.tokens, self.positions = tokens[:, None], positions[:, None]
        self.batch = Batch(groups, pages, lengths)
        self._held: list[tuple[int, int]] = [(-1, 0)] * rows

    def fill(self, batch: list[Generation], book: FeatureBook | None = None, *, later: int = 0) -> None:
        """Take the rows of a step, or those of `later` steps behind it, but for their tokens.

        Nothing may still read those of two steps before.
        """
        self._pair.reverse()
        small, size = self._pair[0].numpy(), self._page_size
        # The device may wait for this: one array of all rows, and no write to an array for each.
        rows = []
        for generation in batch:
            sequence = generation.sequence
            length, groups = sequence.length + later, sequence.held
            place = (length - 1) % size
            rows.append((generation.tokens[-1], length - 1, len(groups), length, groups[-1], place, place + 1))
        small[:7, : len(batch)] = np.array(rows, np.int32).T
        small[:7, len(batch) :] = _PADDED
        if book is not None:
            small[7:] = book.clocks([g.sequence for g in batch], rows=small.shape[1])
        self._on_device.copy_(self._pair[0], non_blocking=True)
        if self._fill_table(batch):
            self.batch.groups.copy_(self._table, non_blocking=True)

    def _fill_table(self, batch: list[Generation]) -> bool:
        changed = False
        for row, generation in enumerate(batch):
            sequence = generation.sequence
            groups = sequence.held
            now = (sequence.id, len(groups))
            if now != self._held[row]:
                owner, held = self._held[row]
                first = held if owner == sequence.id else 0
                self._table.numpy()[row, first : now[1]] = groups[first:]
                self._held[row], changed = now, True
        return changed
