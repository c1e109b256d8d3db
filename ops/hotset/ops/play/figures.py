"""What each layer loaded, used and wasted in a step, by who brought it: rows of `Step.by_layer`."""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt

from hotset.ops.play.pool import Int32
from hotset.protos.messages import Geometry, LayerFigure

_NOBODY, _PLAN, _STEP = range(3)
_USED = {_PLAN: LayerFigure.PLAN_USED, _STEP: LayerFigure.STEP_USED}
_WASTED = {_PLAN: LayerFigure.PLAN_WASTED, _STEP: LayerFigure.STEP_WASTED}


class Figures:
    """Fed in the order of events; `take` gives the figures of the step and begins the next one's."""

    def __init__(self, geometry: Geometry) -> None:
        self._geometry = geometry
        self._brought: npt.NDArray[np.uint8] = np.zeros(geometry.groups * geometry.lanes, np.uint8)
        """by whom, of pages that were prefetched and not used since"""
        self._now = self._none()

    def demanded(self, pages: Int32) -> None:
        """Physical pages were loaded on a miss."""
        self._add(LayerFigure.DEMAND_PAGES, pages)

    def prefetched(self, pages: Int32, by: Literal["plan", "step"]) -> None:
        """Physical pages were loaded ahead of demand."""
        self._brought[pages] = _PLAN if by == "plan" else _STEP
        self._add(LayerFigure.PLAN_PAGES if by == "plan" else LayerFigure.STEP_PAGES, pages)

    def held(self, pages: Int32) -> None:
        """Physical pages were worth a prefetch, but beyond a limit."""
        self._add(LayerFigure.HELD_PAGES, pages)

    def used(self, pages: Int32) -> None:
        """Physical pages were selected, and had a slot."""
        self._settle(pages, _USED)

    def lost(self, pages: Int32) -> None:
        """Physical pages lost their slot."""
        self._settle(pages, _WASTED)

    def take(self, distance: Int32, least: npt.NDArray[np.float32]) -> Int32:
        """[len(LayerFigure), layers] of this step, with the distance and the least probability [layers] in force."""
        figures, self._now = self._now, self._none()
        figures[LayerFigure.DISTANCE] = np.where(np.arange(len(distance)) >= distance, distance, 0)
        figures[LayerFigure.LEAST] = np.rint(least * 1e4)
        return figures

    def _settle(self, pages: Int32, figure: dict[int, LayerFigure]) -> None:
        for cause, counted in figure.items():
            self._add(counted, pages[self._brought[pages] == cause])
        self._brought[pages] = _NOBODY

    def _add(self, figure: LayerFigure, pages: Int32) -> None:
        layers = pages % self._geometry.lanes // self._geometry.kv_heads
        self._now[figure] += np.bincount(layers, minlength=self._geometry.layers).astype(np.int32)

    def _none(self) -> Int32:
        return np.zeros((len(LayerFigure), self._geometry.layers), np.int32)
