"""What a selector is: a score for every page of every lane of a layer, given the layer's queries."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch

from hotset.runtime.paged_kv import PagedKV


@dataclass(frozen=True)
class Batch:
    """The rows of a decode step."""

    groups: torch.Tensor  # [B, longest] int32 page table, -1 pads
    pages: torch.Tensor  # [B] int32, pages of each sequence, the tail included
    lengths: torch.Tensor  # [B] int32, tokens, the new one included


class Selector(ABC):
    """Estimates attention mass per page. It reads whatever it needs, but never changes residency."""

    capturable: ClassVar[bool] = True
    """Whether a captured graph may hold it: it asks the host for nothing."""

    def __init__(self, kv: PagedKV) -> None:
        self.kv = kv

    @abstractmethod
    def mass(self, batch: Batch, query: torch.Tensor, layer: int, scale: float) -> torch.Tensor:
        """Mass of each page for `query` [B, Hq, D], summed over a lane's query heads: [B, Hkv, longest] float32.

        0 beyond a sequence's pages. Must not depend on where pages sit.
        """
