"""What a step moved and waited for, layer by layer: the rows of `Step.by_layer`."""

from __future__ import annotations

from enum import IntEnum

import numpy as np
import numpy.typing as npt
import torch

from hotset.kernels.state import FILLING, ResidencyState
from hotset.protos.messages import LayerFigure


class Cause(IntEnum):
    """Who asked for a prefetch."""

    PLAN = 0
    STEP = 1


_BEGUN = (LayerFigure.PLAN_PAGES, LayerFigure.STEP_PAGES)
_USED = (LayerFigure.PLAN_USED, LayerFigure.STEP_USED)
_WASTED = (LayerFigure.PLAN_WASTED, LayerFigure.STEP_WASTED)


class LayerFigures:
    """Counts of the step that runs, `now` [figures, layers] int64, beside the state that they tell of.

    A prefetch is begun, then used or wasted. What was wasted is what is neither used nor still there unused.
    """

    def __init__(self, state: ResidencyState, kv_heads: int) -> None:
        self._state, self._heads = state, kv_heads
        self._layers = state.lanes // kv_heads
        self.now = torch.zeros(len(LayerFigure), self._layers, dtype=torch.int64, device=state.page_of.device)
        self._cause = torch.zeros_like(state.page_of)
        self._open = torch.zeros(len(Cause), self._layers, dtype=torch.int64, device=self.now.device)

    def begin_step(self) -> None:
        """Count from nothing."""
        self.now.zero_()

    def add(self, figure: LayerFigure, layer: int, amount: int | torch.Tensor) -> None:
        """Add to one figure of `layer`."""
        self.now[figure, layer] += amount

    def put(self, figure: LayerFigure, layer: int, value: int | torch.Tensor) -> None:
        """Set one figure of `layer`."""
        self.now[figure, layer] = value

    def begun(self, cause: Cause, pages: torch.Tensor, slots: torch.Tensor) -> None:
        """Prefetches of `pages` into `slots` ([n] int64 both) have begun."""
        self._cause[slots] = int(cause)
        counts = torch.bincount(self._layer(pages), minlength=self._layers)
        self.now[_BEGUN[cause]] += counts
        self._open[cause] += counts

    def used(self, layer: int, slots: torch.Tensor) -> None:
        """Pages in `slots` ([n] int64) of `layer` were selected for the first time since a prefetch."""
        counts = torch.bincount(self._cause[torch.unique(slots)], minlength=len(Cause))
        for cause in Cause:
            self.now[_USED[cause], layer] += counts[cause]
            self._open[cause, layer] -= counts[cause]

    def dropped(self, cause: Cause, layer: int, count: int) -> None:
        """Prefetches that were given up before they began to move count as not begun."""
        self.now[_BEGUN[cause], layer] -= count
        self._open[cause, layer] -= count

    def end_step(self) -> None:
        """Find what was wasted."""
        there = torch.nonzero(self._state.prefetched | (self._state.state == FILLING)).flatten()
        layers, causes = self._layer(self._state.page_of[there].long()), self._cause[there].long()
        left = torch.bincount(causes * self._layers + layers, minlength=self._open.numel()).view_as(self._open)
        for cause in Cause:
            self.now[_WASTED[cause]] += self._open[cause] - left[cause]
        self._open = left

    def message(self) -> npt.NDArray[np.int32]:
        """[figures, layers], a copy."""
        found: npt.NDArray[np.int32] = self.now.to("cpu", torch.int32, copy=True).numpy()
        return found

    def _layer(self, pages: torch.Tensor) -> torch.Tensor:
        return pages % self._state.lanes // self._heads
