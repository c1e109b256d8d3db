"""The feature state of one sequence."""

from __future__ import annotations

import numpy as np

from hotset.predictor.features.echo import EchoMemory, grown_echoes, make_echoes, observe_echoes
from hotset.predictor.features.memory import (
    Bool,
    Float32,
    Int32,
    LaneMemory,
    PageMemory,
    UInt8,
    grown,
    make_lanes,
    make_pages,
)
from hotset.predictor.features.observe import observe_step
from hotset.predictor.features.rows import fill_rows
from hotset.protos import heat
from hotset.protos.errors import ConfigError
from hotset.protos.features import FEATURES


class FeatureState:
    """All that is remembered of one sequence, updated in time proportional to a step's candidates.

    Grows by itself when a step names pages beyond `pages`. Not safe for use by two threads at once.
    """

    def __init__(self, *, layers: int, kv_heads: int, page_size: int, selected: int, pages: int) -> None:
        if min(layers, kv_heads, page_size, selected) < 1 or pages < 0:
            raise ConfigError(f"feature state: {layers=}, {kv_heads=}, {page_size=}, {selected=} must be positive")
        self._heads = kv_heads
        self._lanes = layers * kv_heads
        self._page_size = page_size
        self._memory: PageMemory = make_pages(self._lanes, layers, max(1, pages))
        self._echoes: EchoMemory = make_echoes(self._lanes, layers, max(1, pages))
        self._view: LaneMemory = make_lanes(self._lanes)
        self._newest = 0
        self._steps = 0

    @property
    def steps(self) -> int:
        """Steps observed so far."""
        return self._steps

    @property
    def memory(self) -> PageMemory:
        """What is remembered of each page; replaced when the state grows, so do not keep it."""
        return self._memory

    @property
    def churn(self) -> Float32:
        """[L] average of turnover, as of the last observed step."""
        return self._view.churn

    def observe(self, length: int, pages: Int32, scores: UInt8, selected: Bool) -> None:
        """Learn one step: tokens in the sequence, and [lanes, n] candidates (-1 pad), scores, which were selected.

        Raises ConfigError if the arrays do not have one row a lane and one shape.
        """
        if not pages.shape == scores.shape == selected.shape or pages.ndim != 2 or len(pages) != self._lanes:
            raise ConfigError(f"a step needs [{self._lanes}, n] arrays, got {pages.shape}, {scores.shape}")
        self._newest = max(0, length - 1) // self._page_size
        self._reserve(max(self._newest, int(pages.max(initial=-1))) + 1)
        observe_step(self._memory, self._view, self._heads, self._steps, pages, scores, selected)
        observe_echoes(self._echoes, self._memory.uses, self._heads, self._steps, pages, selected)
        self._steps += 1

    def rows(self, lanes: Int32, pages: Int32) -> Float32:
        """Features [m, F] of pages [m] of lanes [m], as of the last observed step (see protos.features).

        Raises ConfigError for a lane that does not exist or a negative page.
        """
        out = np.empty((len(lanes), len(FEATURES)), np.float32)
        if not len(lanes):
            return out
        if int(lanes.min()) < 0 or int(lanes.max()) >= self._lanes or int(pages.min()) < 0:
            raise ConfigError(f"rows of lanes 0..{self._lanes - 1} and pages from 0 only")
        self._reserve(int(pages.max()) + 1)
        now = max(0, self._steps - 1)
        fill_rows(self._memory, self._view, self._echoes, self._heads, now, self._newest, lanes, pages, out)
        return out

    def margin_average(self, lanes: Int32, pages: Int32) -> Float32:
        """Margin averages [m] as of the last observed step: the heuristic of `margin-ema`; larger is hotter."""
        self._reserve(int(pages.max(initial=0)) + 1)
        idle = np.maximum(0, self._steps - 1 - self._memory.last_seen[lanes, pages])
        return (self._memory.margin[lanes, pages] * heat.DECAY**idle).astype(np.float32)

    def _reserve(self, pages: int) -> None:
        if pages > self._memory.pages:
            room = max(pages, self._memory.pages * 3 // 2)
            self._memory = grown(self._memory, room)
            self._echoes = grown_echoes(self._echoes, room)
