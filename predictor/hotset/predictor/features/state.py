"""The feature state of one sequence."""

from __future__ import annotations

import numpy as np

from hotset.predictor.features.echo import WORDS, EchoMemory, grown_echoes, make_echoes, widened
from hotset.predictor.features.memory import (
    COLD,
    HOT,
    LAYER,
    Bool,
    Float32,
    Int32,
    LaneMemory,
    PageMemory,
    Records,
    UInt8,
    grown,
    grown_hot,
    make_hot,
    make_lanes,
    make_pages,
)
from hotset.predictor.features.observe import observe_heat, observe_step
from hotset.predictor.features.rows import fill_margins, fill_rows
from hotset.protos.errors import ConfigError
from hotset.protos.features import FEATURES

HEAT_BYTES = HOT.itemsize
"""a page of a lane of a compact state"""


class FeatureState:
    """All that is remembered of one sequence, updated in time proportional to a step's candidates.

    Grows by itself when a step names pages beyond `pages`. A compact state keeps what the heuristic needs and has no
    rows. Not safe for use by two threads at once; compiled parts release the interpreter's lock.
    """

    def __init__(
        self, *, layers: int, kv_heads: int, page_size: int, selected: int, pages: int, compact: bool = False
    ) -> None:
        if min(layers, kv_heads, page_size, selected) < 1 or pages < 0:
            raise ConfigError(f"feature state: {layers=}, {kv_heads=}, {page_size=}, {selected=} must be positive")
        self._layers, self._heads = layers, kv_heads
        self._lanes = layers * kv_heads
        self.page_size = page_size
        self._selected = selected
        self._hot: Records = make_hot(self._lanes, max(1, pages))
        self._memory: PageMemory | None = None
        self._echoes: EchoMemory | None = None
        self._view: LaneMemory = make_lanes(self._lanes)
        self._newest = 0
        self._steps = 0
        if not compact:
            self.expand()

    @property
    def steps(self) -> int:
        """Steps observed so far."""
        return self._steps

    @property
    def pages(self) -> int:
        """Pages that fit without growing."""
        return int(self._hot.shape[1])

    @property
    def hot(self) -> Records:
        """[L, pages] of memory.HOT; replaced when the state grows, so do not keep it."""
        return self._hot

    @property
    def memory(self) -> PageMemory:
        """What is remembered of each page; replaced when the state grows, so do not keep it.

        Raises ConfigError if the state is compact.
        """
        if self._memory is None:
            raise ConfigError("a compact feature state remembers no more than heat; expand it first")
        return self._memory

    @property
    def churn(self) -> Float32:
        """[L] average of turnover, as of the last observed step."""
        return self._view.churn

    @property
    def is_compact(self) -> bool:
        """Whether only heat is kept."""
        return self._memory is None

    @property
    def nbytes(self) -> int:
        """Bytes held for pages; a lane's and a layer's own few are not counted."""
        return self.bytes_of(self.pages, compact=self.is_compact)

    def bytes_of(self, pages: int, *, compact: bool) -> int:
        """What a state with room for `pages` holds for them."""
        more = 0 if compact else self._lanes * (COLD.itemsize + 8 * WORDS) + self._layers * LAYER.itemsize
        return pages * (self._lanes * HEAT_BYTES + more)

    def room_for(self, pages: int) -> int:
        """How many pages will fit once the state has grown for `pages`."""
        return self.pages if pages <= self.pages else max(pages, self.pages * 9 // 8)

    def compact(self) -> None:
        """Forget all but heat: margin averages, and when each page was last used and seen."""
        self._memory = self._echoes = None

    def expand(self) -> None:
        """Have features again, of what is observed from here on; heat goes on."""
        if self._memory is None:
            self._memory = make_pages(self._hot, self._layers)
            self._echoes = make_echoes(self._lanes, self._layers, self.pages, self._selected)

    def observe(self, length: int, pages: Int32, scores: UInt8, selected: Bool) -> None:
        """Learn one step: tokens in the sequence, and [lanes, n] candidates (-1 pad), scores, which were selected.

        Fewer rows than lanes are those of the first lanes; the others learn nothing of this step. Raises ConfigError
        if the arrays have more, or not one shape.
        """
        if not pages.shape == scores.shape == selected.shape or pages.ndim != 2 or len(pages) > self._lanes:
            raise ConfigError(f"a step needs [{self._lanes}, n] arrays, got {pages.shape}, {scores.shape}")
        self._newest = max(0, length - 1) // self.page_size
        self._reserve(max(self._newest, int(pages.max(initial=-1))) + 1)
        if self._memory is None or self._echoes is None:
            observe_heat(self._hot, self._view, self._steps, pages, scores, selected)
        else:
            if pages.shape[1] > self._echoes.chosen.shape[2]:
                self._widen(selected)
            observe_step(self._memory, self._view, self._echoes, self._heads, self._steps, pages, scores, selected)
        self._steps += 1

    def rows(self, lanes: Int32, pages: Int32) -> Float32:
        """Features [m, F] of pages [m] of lanes [m], as of the last observed step (see protos.features).

        Raises ConfigError for a lane that does not exist, a negative page, or if the state is compact.
        """
        out = np.empty((len(lanes), len(FEATURES)), np.float32)
        if not len(lanes):
            return out
        if int(lanes.min()) < 0 or int(lanes.max()) >= self._lanes or int(pages.min()) < 0:
            raise ConfigError(f"rows of lanes 0..{self._lanes - 1} and pages from 0 only")
        self._reserve(int(pages.max()) + 1)
        now, memory = max(0, self._steps - 1), self.memory
        assert self._echoes is not None
        fill_rows(memory, self._view, self._echoes, self._heads, now, self._newest, lanes, pages, out)
        return out

    def margin_average(self, lanes: Int32, pages: Int32) -> Float32:
        """Margin averages [m] as of the last observed step: the heuristic of `margin-ema`; larger is hotter."""
        self._reserve(int(pages.max(initial=0)) + 1)
        out = np.empty(len(lanes), np.float32)
        fill_margins(self._hot, self._steps - 1, lanes, pages, out)
        return out

    def _reserve(self, pages: int) -> None:
        if pages > self.pages:
            self._hot = grown_hot(self._hot, self.room_for(pages))
            if self._memory is not None and self._echoes is not None:
                self._memory = grown(self._memory, self._hot)
                self._echoes = grown_echoes(self._echoes, self.pages)

    def _widen(self, selected: Bool) -> None:
        assert self._echoes is not None
        most = int(selected.sum(axis=1).max(initial=0))
        if most > self._echoes.chosen.shape[2]:
            self._echoes = widened(self._echoes, most)
