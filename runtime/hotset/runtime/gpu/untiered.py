"""No tiers, for comparison: every page has its own slot for good, and the same kernels attend to it."""

from __future__ import annotations

from typing import Any

import torch

from hotset.kernels.record import Accessed, Recorded
from hotset.kernels.resolve import Resolved
from hotset.runtime.gpu.residency import DeviceResidency


class UntieredResidency(DeviceResidency):
    """Slot p is page p's. Nothing is looked up, moved, ranked, counted or told; plans change nothing."""

    tiered = False

    def __init__(self, **sizes: Any) -> None:
        """Arguments as for DeviceResidency; there are as many slots as pages."""
        super().__init__(**sizes)
        self.state.slot_of.copy_(torch.arange(self.state.slot_of.numel()))

    def open_tails(self, groups: list[int]) -> None:
        """See ResidencyManager."""
        if groups:
            self.rows.index_fill_(0, self._ids(self.pages_of(torch.tensor(groups)).flatten()), 0)

    def seal(self, groups: list[int]) -> None:
        """See ResidencyManager."""

    def store(self, pages: torch.Tensor, rows: torch.Tensor) -> None:
        """See ResidencyManager."""
        self.rows.index_copy_(0, self._ids(pages), rows)

    def warm(self, pages: torch.Tensor) -> int:
        """See ResidencyManager."""
        return 0

    def free(self, groups: list[int]) -> None:
        """See ResidencyManager."""
        for group in groups:
            self._generation[group] += 1

    def resize(self, wanted: int) -> None:
        """See ResidencyManager."""

    def make_way(self, slots: int) -> None:
        """See DeviceResidency."""

    def begin_step(self) -> None:
        """See ResidencyManager."""

    def resolve_layer(self, pages: torch.Tensor, layer: int = 0) -> Resolved:
        """See DeviceResidency."""
        there = torch.empty(0, device=pages.device)
        return Resolved(pages, there, there, there, there, there)

    def end_step(self) -> None:
        """See ResidencyManager."""

    def record(self, step: Accessed, out: Recorded | None) -> None:
        """See DeviceResidency."""

    def check_mirrors(self) -> None:
        """See ResidencyManager."""
