"""The device's feature state of one sequence, bit for bit as `hotset.kernels.page_features` keeps it."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from hotset.predictor.device.words import (
    Bool,
    Float32,
    Int32,
    LaneView,
    UInt8,
    fill_rows,
    last_events,
    observe_step,
)
from hotset.predictor.trace.sequence import SequenceTrace
from hotset.protos.device_features import PAGE_FEATURES, WORDS
from hotset.protos.errors import ConfigError
from hotset.protos.trace import TraceMeta


class Events(NamedTuple):
    """When pages were last used and last candidates, [L, P]; -1 before that."""

    last_used: Int32
    last_seen: Int32

    @property
    def pages(self) -> int:
        """Pages that fit."""
        return int(self.last_used.shape[1])


class DeviceState:
    """What the device knows of a sequence's pages. Used as `hotset.predictor.features.FeatureState` is."""

    def __init__(self, *, layers: int, kv_heads: int, page_size: int, pages: int) -> None:
        self._heads, self._lanes, self._page_size = kv_heads, layers * kv_heads, page_size
        self.words: Int32 = np.zeros((self._lanes, max(1, pages), WORDS), np.int32)
        nan = np.full(self._lanes, np.nan, np.float32)
        self.view = LaneView(nan, nan.copy(), nan.copy(), nan.copy())
        self.steps = 0
        self._newest = 0
        self._events: Events | None = None

    @property
    def memory(self) -> Events:
        """When pages were last used and seen, as of the last observed step."""
        if self._events is None:
            self._events = Events(*last_events(self.words))
        return self._events

    @property
    def churn(self) -> Float32:
        """[L] average of turnover."""
        return self.view.churn

    def observe(self, length: int, pages: Int32, scores: UInt8, selected: Bool) -> None:
        """Learn one step: tokens in the sequence, and [lanes, n] candidates (-1 pad), scores, which were selected.

        Raises ConfigError if the arrays do not have one row a lane and one shape.
        """
        if not pages.shape == scores.shape == selected.shape or pages.ndim != 2 or len(pages) != self._lanes:
            raise ConfigError(f"a step needs [{self._lanes}, n] arrays, got {pages.shape}, {scores.shape}")
        self._newest = max(0, length - 1) // self._page_size
        self._reserve(max(self._newest, int(pages.max(initial=-1))) + 1)
        observe_step(self.words, self.view, self.steps, pages, scores, selected)
        self.steps += 1
        self._events = None

    def rows(self, lanes: Int32, pages: Int32) -> Float32:
        """PAGE_FEATURES [m, F] of pages [m] of lanes [m], as of the last observed step."""
        out = np.empty((len(lanes), len(PAGE_FEATURES)), np.float32)
        self._reserve(int(pages.max(initial=0)) + 1)
        now = max(0, self.steps - 1)
        fill_rows(self.words, self.view, self._heads, now, self._newest, lanes, pages, out)
        return out

    def _reserve(self, pages: int) -> None:
        have = self.words.shape[1]
        if pages > have:
            more = np.zeros((self._lanes, max(pages, have * 3 // 2) - have, WORDS), np.int32)
            self.words, self._events = np.concatenate([self.words, more], axis=1), None


def new_device_state(sequence: SequenceTrace, meta: TraceMeta) -> DeviceState:
    """An empty state with room for all pages of `sequence`."""
    return DeviceState(layers=meta.layers, kv_heads=meta.kv_heads, page_size=meta.page_size, pages=sequence.page_count)
