"""The device's feature state: 16 bytes a physical page, and a little for each lane of each sequence that decodes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch

from hotset.kernels.dispatch import require
from hotset.protos.device_features import WORDS, decay_tables

VIEW = 5
TURNOVER, CHURN, THRESHOLD, LOWEST, RECALL = range(VIEW)


class Place(NamedTuple):
    """Which lanes a call is about: layer `layer` of B sequences."""

    groups_of: torch.Tensor  # [B, max_pages] int32, -1 pads
    rows: torch.Tensor  # [B] int32, row of each sequence in the lane tables, all different
    steps: torch.Tensor  # [B] int32, step of each sequence, from 0; sequences that share pages must count alike
    layer: int
    kv_heads: int
    first: torch.Tensor | None = None  # [B] int32, not 0 where nothing was observed yet; None: nowhere


@dataclass
class PageFeatures:
    """All tensors live on one device; P physical pages, S sequences, L lanes, R ranked pages."""

    words: torch.Tensor  # [P, WORDS] int32, see hotset.protos.device_features
    view: torch.Tensor  # [S, L, VIEW] float32 of each lane, NaN before the first step
    ranked: torch.Tensor  # [S, L, R] int32 logical pages of the last lookahead, best first, -1 pads
    turns: torch.Tensor  # [S, L, R] int32 steps in a row that ranked the page
    ranked_at: torch.Tensor  # [S, L] int32 the step that the lookahead was for, -1 for none
    decays: torch.Tensor  # [3, DECAY_STEPS] int32
    selected: int  # pages that a lane selects; so many first ranks count for recall and news

    @classmethod
    def create(
        cls, *, groups: int, lanes: int, sequences: int, ranks: int, selected: int, device: torch.device | str = "cpu"
    ) -> PageFeatures:
        """Nothing known yet. Raises ValueError if a size is not positive."""
        sizes = (groups, lanes, sequences, ranks, selected)
        require(min(sizes) > 0, f"{groups=}, {lanes=}, {sequences=}, {ranks=}, {selected=} must be positive")
        return cls(
            words=torch.zeros(groups * lanes, WORDS, dtype=torch.int32, device=device),
            view=torch.full((sequences, lanes, VIEW), math.nan, device=device),
            ranked=torch.full((sequences, lanes, ranks), -1, dtype=torch.int32, device=device),
            turns=torch.zeros(sequences, lanes, ranks, dtype=torch.int32, device=device),
            ranked_at=torch.full((sequences, lanes), -1, dtype=torch.int32, device=device),
            decays=torch.from_numpy(decay_tables()).to(device),
            selected=selected,
        )

    @property
    def lanes(self) -> int:
        """Lanes of one sequence."""
        return self.view.shape[1]

    def forget_groups(self, groups: torch.Tensor) -> None:
        """Freed groups ([n] int64): whoever gets them next starts from nothing."""
        self.words.view(-1, self.lanes, WORDS).index_fill_(0, groups, 0)

    def forget_rows(self, rows: torch.Tensor) -> None:
        """Rows ([n] int64) whose sequences have ended."""
        self.view.index_fill_(0, rows, math.nan)
        self.ranked_at.index_fill_(0, rows, -1)
