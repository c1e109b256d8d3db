"""Prefetches begun inside a step for one of its later layers, on the CPU backend."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import torch

from hotset.kernels.prefetch import begin_prefetch
from hotset.kernels.reclaim import reclaim
from hotset.kernels.reserve import reserve_level
from hotset.kernels.state import FREE
from hotset.protos.messages import LayerFigure
from hotset.runtime.figures import Cause
from hotset.runtime.prefetcher import Prefetcher

if TYPE_CHECKING:
    from hotset.runtime.residency import ResidencyManager


class StepPrefetch:
    """Fetches a layer early; when the layer's turn comes, nobody waits for more than what is on the link."""

    def __init__(self, manager: ResidencyManager, prefetcher: Prefetcher) -> None:
        self._manager, self._prefetcher = manager, prefetcher

    def start(self, pages: torch.Tensor, layer: int, wanted: torch.Tensor) -> None:
        """Start copying `pages` ([n] int32, surest first, -1 pads) for `layer`, which begins soon in this step.

        Takes as many victims as there are; of the `wanted` ([1]) the others count as held.
        """
        manager = self._manager
        state, pages = manager.state, pages[pages >= 0]
        pages = pages[manager.backing.has(pages.long())]
        if not pages.numel():
            manager.figures.add(LayerFigure.HELD_PAGES, layer, int(wanted))
            return
        if (level := pages.numel() + manager.low) > reserve_level(state):
            reclaim(state, low=level, high=max(level, manager.high), policy=manager.policy)
        manager.keep_evicted()
        generations = state.generation[pages.long() // manager.lanes].long()
        begun = begin_prefetch(state, pages, generations, keep=manager.low)
        page, slot = begun.pages.long(), begun.slots.long()
        self._prefetcher.start(page, slot, begun.generations, layer=layer)
        manager.figures.begun(Cause.STEP, page, slot)
        manager.figures.add(LayerFigure.HELD_PAGES, layer, int(wanted) - page.numel())
        manager.moved.prefetch_pages += page.numel()

    def settle(self, layer: int, pages: torch.Tensor) -> float:
        """`layer` asks for `pages` ([n] int32) now; seconds that it waited for those on the link.

        What is queued for it comes too late and is given up; what is on the link is not loaded a second time.
        """
        manager, slots = self._manager, self._prefetcher.give_up(layer)
        if slots.numel():
            manager.state.in_flight[manager.state.page_of[slots].long()] = False
            manager.state.page_of[slots] = -1
            manager.state.state[slots] = FREE
            manager.moved.prefetch_pages -= slots.numel()
            manager.figures.dropped(Cause.STEP, layer, slots.numel())
        start = time.perf_counter()
        if not self._prefetcher.wait_for(pages):
            return 0.0
        manager.commit_prefetches()
        return time.perf_counter() - start
