"""Feature state of the sequences that decode: which row each has, and what the device knows of their pages."""

from __future__ import annotations

import torch

from hotset.kernels.page_features import PageFeatures, Place, lookahead_columns, observe, page_columns
from hotset.kernels.page_features.state import CHURN, TURNOVER
from hotset.runtime.groups import Sequence
from hotset.runtime.paged_kv import PagedKV
from hotset.runtime.selectors import Batch


class FeatureBook:
    """16 bytes a physical page, and for each lane of `max_sequences` sequences 20 bytes and 8 a ranked page.

    A sequence counts its own steps, so that a page's age is what the trainer sees in the log. One that shares pages
    with an older one goes on counting from there (`Sequence.clock`).
    """

    def __init__(self, kv: PagedKV, ranks: int) -> None:
        self.kv = kv
        self.state = PageFeatures.create(
            groups=len(kv.groups.references), lanes=kv.lanes, sequences=kv.config.max_sequences, ranks=ranks,
            selected=kv.config.selected, device=kv.manager.rows.device,
        )  # fmt: skip
        kv.on_freed = self.forget_groups
        self._rows: dict[int, int] = {}
        self._free = list(range(kv.config.max_sequences - 1, -1, -1))

    def page(self, sequences: list[Sequence], batch: Batch, known: torch.Tensor) -> FeaturePage:
        """What the coming step of `sequences` reads and writes; they had `known` pages ([B] int32) before it."""
        self._keep_open()
        device = batch.groups.device
        rows = [self._row(s.id) for s in sequences]
        steps = [s.clock + s.step for s in sequences]
        return FeaturePage(
            self,
            batch,
            known,
            torch.tensor(rows, dtype=torch.int32, device=device),
            torch.tensor(steps, dtype=torch.int32, device=device),
            torch.tensor([s.step == 0 for s in sequences], device=device),
        )

    def forget_groups(self, groups: list[int]) -> None:
        """These groups are free: whoever gets them next starts from nothing."""
        if groups:
            self.state.forget_groups(torch.tensor(groups, device=self.state.words.device))

    def _keep_open(self) -> None:
        gone = [sequence for sequence in self._rows if sequence not in self.kv.sequences]
        if gone:
            rows = [self._rows.pop(sequence) for sequence in gone]
            self._free += rows
            self.state.forget_rows(torch.tensor(rows, device=self.state.view.device))

    def _row(self, sequence: int) -> int:
        if sequence not in self._rows:
            self._rows[sequence] = self._free.pop()
        return self._rows[sequence]


class FeaturePage:
    """One step's view of the book."""

    def __init__(
        self,
        book: FeatureBook,
        batch: Batch,
        known: torch.Tensor,
        rows: torch.Tensor,
        steps: torch.Tensor,
        first: torch.Tensor,
    ) -> None:
        self._state, self._heads, self._batch = book.state, book.kv.shape.kv_heads, batch
        self._known = known
        self._rows, self._now, self._before = rows, steps, steps - 1
        self.first = first
        """[B] bool, sequences of which no step has been observed yet"""

    def ranked(self, layer: int, ranks: torch.Tensor) -> torch.Tensor:
        """DEVICE_FEATURES of `ranks` [B, H, R] for the step that runs: [F, B, H, R]."""
        columns = lookahead_columns(self._state, self._place(layer, self._before), ranks, self._known)
        # The trainer has no ranks of a step before which nothing was observed; neither have we.
        lanes = slice(layer * self._heads, (layer + 1) * self._heads)
        at = self._state.ranked_at[self._rows.long(), lanes]
        self._state.ranked_at[self._rows.long(), lanes] = torch.where(self.first[:, None], -1, at)
        return columns

    def observe(self, layer: int, ids: torch.Tensor, scores: torch.Tensor, flags: torch.Tensor) -> None:
        """Learn what `layer` saw, [B, H, n] each."""
        observe(self._state, self._place(layer, self._now), ids, scores, flags)
        lanes = slice(layer * self._heads, (layer + 1) * self._heads)
        view = self._state.view[self._rows.long(), lanes]
        # A sequence that counts on from another one's steps has no average yet.
        view[..., CHURN] = torch.where(view[..., CHURN].isnan(), view[..., TURNOVER], view[..., CHURN])
        self._state.view[self._rows.long(), lanes] = view

    def columns(self, layer: int, ids: torch.Tensor) -> torch.Tensor:
        """PAGE_FEATURES of `ids` [B, H, n] as of the step that runs, after `observe`: [F, B, H, n]."""
        return page_columns(self._state, self._place(layer, self._now), ids, self._batch.pages)

    def _place(self, layer: int, steps: torch.Tensor) -> Place:
        return Place(self._batch.groups, self._rows, steps, layer, self._heads)
