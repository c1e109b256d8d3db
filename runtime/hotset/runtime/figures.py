"""What was moved: since the session began, and in a step layer by layer (the rows of `Step.by_layer`)."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from enum import IntEnum

import numpy as np
import numpy.typing as npt
import torch

from hotset.kernels.state import ResidencyState
from hotset.kernels.tally import NOBODY, count_unused, count_uses
from hotset.protos.messages import LayerFigure


@dataclass
class Movement:
    """Cumulative counts since the session began; a page is one page of one lane.

    What starting and resuming sequences moves (`warm_pages`, `tail_pages`) is counted apart from the steps' movement.
    """

    accesses: int = 0
    hits: int = 0
    prefetched_hits: int = 0
    demand_pages: int = 0
    prefetch_pages: int = 0
    prefetch_wasted: int = 0
    warm_pages: int = 0
    tail_pages: int = 0
    shared_pages: int = 0
    written_pages: int = 0
    plans_applied: int = 0
    entries_applied: int = 0
    entries_rejected: Counter[str] = field(default_factory=Counter)


class Cause(IntEnum):
    """Who asked for a prefetch."""

    PLAN = 0
    STEP = 1


# By cause, and side by side in `now`.
_BEGUN = (LayerFigure.PLAN_PAGES, LayerFigure.STEP_PAGES)
_USED = (LayerFigure.PLAN_USED, LayerFigure.STEP_USED)
_WASTED = (LayerFigure.PLAN_WASTED, LayerFigure.STEP_WASTED)


class LayerFigures:
    """Counts of the step that runs, `now` [figures, layers] int64, beside the state that they tell of.

    A prefetch is begun, then used or wasted. What was wasted is what is neither used nor still there unused. No
    method but `message` waits for the device.
    """

    def __init__(self, state: ResidencyState, kv_heads: int) -> None:
        self._state, self._heads = state, kv_heads
        self._layers = state.lanes // kv_heads
        self.now = torch.zeros(len(LayerFigure), self._layers, dtype=torch.int64, device=state.page_of.device)
        self.cause = torch.full((state.slots + 1,), NOBODY, dtype=torch.int32, device=self.now.device)
        """whose prefetch brought what is in a slot and has not been used; the last is for pads"""
        self._open = torch.zeros(len(Cause), self._layers, dtype=torch.int64, device=self.now.device)

    def begin_step(self) -> None:
        """Count from nothing."""
        self.now.zero_()

    def add(self, figure: LayerFigure, layer: int, amount: int | torch.Tensor) -> None:
        """Add to one figure of `layer`."""
        self.now[figure, layer] += amount

    def begun(self, cause: Cause, pages: torch.Tensor, slots: torch.Tensor) -> None:
        """Prefetches of `pages` into `slots` ([n] both, -1 pads) have begun."""
        if not pages.is_cuda:
            page, slot = pages.numpy(), slots.numpy()
            page, slot = page[page >= 0], slot[page >= 0]
            self.cause.numpy()[slot] = int(cause)
            layers = np.bincount(page % self._state.lanes // self._heads, minlength=self._layers)
            self.count_begun(cause, torch.from_numpy(layers))
            return
        there = (pages >= 0).long()
        self.cause.index_fill_(0, torch.where(pages >= 0, slots, self._state.slots).long(), int(cause))
        self.count_begun(cause, torch.zeros_like(self._open[cause]).index_add_(0, self._layer(pages), there))

    def count_begun(self, cause: Cause, counts: torch.Tensor) -> None:
        """So many prefetches have begun, [layers] int64, and `cause` has them."""
        self.now[_BEGUN[cause]] += counts
        self._open[cause] += counts

    def used(self, slots: torch.Tensor, prefetched: torch.Tensor, first: int = 0) -> None:
        """What layers from the `first` on resolved: slots [L, n] int32, and which are used first since a prefetch."""
        layers = slice(first, first + slots.shape[0])
        count_uses(slots, prefetched, self.cause, self.now[_USED[0] : _USED[-1] + 1, layers])

    def dropped(self, cause: Cause, layer: int, count: int) -> None:
        """Prefetches that were given up before they began to move count as not begun."""
        self.now[_BEGUN[cause], layer] -= count
        self._open[cause, layer] -= count

    def end_step(self) -> None:
        """Find what was wasted."""
        left = torch.zeros_like(self._open)
        count_unused(self._state, self.cause, left)
        self.now[_WASTED[0] : _WASTED[-1] + 1] += self._open - self.now[_USED[0] : _USED[-1] + 1] - left
        self._open.copy_(left)

    def message(self) -> npt.NDArray[np.int32]:
        """[figures, layers], a copy."""
        found: npt.NDArray[np.int32] = self.now.to("cpu", torch.int32, copy=True).numpy()
        return found

    def _layer(self, pages: torch.Tensor) -> torch.Tensor:
        return pages.long().clamp(min=0) % self._state.lanes // self._heads
