"""Feature state of the sequences that decode: which row each has, and what the device knows of their pages."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from hotset.kernels.page_features import PageFeatures, Place, lookahead_columns, observe, page_columns
from hotset.runtime.groups import Sequence
from hotset.runtime.paged_kv import PagedKV
from hotset.runtime.selectors import Batch


class Clocks(NamedTuple):
    """Where the sequences of a step stand, [B] int32 each."""

    rows: torch.Tensor  # of each sequence in the book, all different
    steps: torch.Tensor  # that the coming step is for each
    first: torch.Tensor  # 1 for sequences of which no step has been observed yet, else 0


class FeatureBook:
    """16 bytes a physical page, and for each lane of `max_sequences` sequences 20 bytes and 8 a ranked page.

    A sequence counts its own steps, so that a page's age is what the trainer sees in the log. One that shares pages
    with an older one goes on counting from there (`Sequence.clock`). `spare` rows are for those of a batch that are
    padded.
    """

    def __init__(self, kv: PagedKV, ranks: int, *, spare: int = 0) -> None:
        self.kv, self._spare = kv, spare
        self.state = PageFeatures.create(
            groups=len(kv.groups.references), lanes=kv.lanes, sequences=kv.config.max_sequences + spare, ranks=ranks,
            selected=kv.config.selected, device=kv.manager.rows.device,
        )  # fmt: skip
        kv.on_freed = self.forget_groups
        self._rows: dict[int, int] = {}
        self._free = list(range(kv.config.max_sequences - 1, -1, -1))

    def clocks(self, sequences: list[Sequence], *, rows: int) -> npt.NDArray[np.int32]:
        """The Clocks, [3, rows], of a step of `sequences`, on the host; rows behind them are padded."""
        self._keep_open()
        found = np.zeros((3, rows), np.int32)
        found[0] = self.kv.config.max_sequences + np.arange(rows)
        for row, sequence in enumerate(sequences):
            found[:, row] = self._row(sequence.id), sequence.clock + sequence.step, sequence.step == 0
        return found

    def forget_groups(self, groups: list[int]) -> None:
        """These groups are free: whoever gets them next starts from nothing."""
        if groups:
            self.state.forget_groups(self._there(groups))

    def _keep_open(self) -> None:
        gone = [sequence for sequence in self._rows if sequence not in self.kv.sequences]
        if gone:
            rows = [self._rows.pop(sequence) for sequence in gone]
            self._free += rows
            self.state.forget_rows(self._there(rows))

    def _there(self, numbers: list[int]) -> torch.Tensor:
        found = torch.tensor(numbers)
        return found if self.kv.device is None else self.kv.device.upload(found)

    def _row(self, sequence: int) -> int:
        if sequence not in self._rows:
            self._rows[sequence] = self._free.pop()
        return self._rows[sequence]


class FeaturePage:
    """What one step of a batch reads and writes in the book; it had `known` pages ([B] int32) before."""

    def __init__(self, book: FeatureBook, batch: Batch, known: torch.Tensor, clocks: Clocks) -> None:
        self._state, self._heads, self._batch = book.state, book.kv.shape.kv_heads, batch
        self._known = known
        self._rows, self._now, self._before = clocks.rows, clocks.steps, clocks.steps - 1
        self.first = clocks.first

    def ranked(self, layer: int, ranks: torch.Tensor) -> torch.Tensor:
        """DEVICE_FEATURES of `ranks` [B, H, R] for the step that runs: [F, B, H, R]."""
        # The trainer has no ranks of a step before which nothing was observed; neither have we.
        place = self._place(layer, self._before)._replace(first=self.first)
        return lookahead_columns(self._state, place, ranks, self._known)

    def observe(self, layer: int, ids: torch.Tensor, scores: torch.Tensor, flags: torch.Tensor | None) -> None:
        """Learn what `layer` saw, [B, H, n] each; without flags the first ids are those selected."""
        observe(self._state, self._place(layer, self._now), ids, scores, flags)

    def columns(self, layer: int, ids: torch.Tensor) -> torch.Tensor:
        """PAGE_FEATURES of `ids` [B, H, n] as of the step that runs, after `observe`: [F, B, H, n]."""
        return page_columns(self._state, self._place(layer, self._now), ids, self._batch.pages)

    def _place(self, layer: int, steps: torch.Tensor) -> Place:
        return Place(self._batch.groups, self._rows, steps, layer, self._heads)
