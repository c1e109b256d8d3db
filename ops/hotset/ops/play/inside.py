"""What an engine without a model decides inside a step: it evaluates the pushed heads on a trace's lookahead.

before a step:  p = use head(DEVICE_FEATURES) of all that is ranked, at each layer's distance
                prefetch, surest first: no slot and p at least the layer's least, up to the layer's pages
                protect: resident and p at least PROTECTED
after it:       next-use head -> values of the candidates' slots
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from hotset.predictor.device.lookahead import DeviceLookahead, new_device_lookahead
from hotset.predictor.device.state import DeviceState
from hotset.predictor.forest import Forest
from hotset.predictor.lookahead import nearest
from hotset.predictor.trace import SequenceTrace
from hotset.protos.device_features import DEVICE_FEATURES_HASH, PAGE_FEATURES_HASH
from hotset.protos.device_model import DeviceModel
from hotset.protos.lookahead import SAFE_PROBABILITY, VALUE_UNUSED, VALUE_USED
from hotset.protos.messages import InStep, Lookahead
from hotset.protos.trace import TraceMeta
from hotset.runtime.engine import CheckedModel

Int32 = npt.NDArray[np.int32]
UInt8 = npt.NDArray[np.uint8]
Bool = npt.NDArray[np.bool_]
Float32 = npt.NDArray[np.float32]
NO_LIMIT = (1 << 31) - 1


class Ranked(NamedTuple):
    """What one sequence's lookahead says for a step: `ranks` by distance, and who is how likely to be used."""

    ranks: dict[int, Int32]
    lanes: Int32
    pages: Int32
    sure: Float32


class InsideStep:
    """The pushed model, its steering, and what the device would keep of every sequence."""

    def __init__(self, meta: TraceMeta, sequences: Sequence[SequenceTrace]) -> None:
        self.distances = sorted(set.intersection(*(set(s.lookahead) for s in sequences)) if sequences else ())
        self.version = ""
        layers = meta.layers
        self._meta = meta
        self._own = min(self.distances, default=0)
        self.distance = np.full(layers, self._own, np.int32)
        self.least = np.full(layers, SAFE_PROBABILITY, np.float32)
        self.pages = np.full(layers, NO_LIMIT, np.int32)
        self._until: int | None = None
        self._value: Forest | None = None
        self._use: Forest | None = None
        self._most_pages = max((s.page_count for s in sequences), default=0)
        self._known: dict[int, tuple[DeviceState, DeviceLookahead]] = {}

    @property
    def in_step(self) -> InStep:
        """What a daemon is told; nothing of a trace without a lookahead."""
        if not self.distances:
            return InStep()
        return InStep(
            distances=self.distances, ranks=self._meta.candidates, models=True,
            value_features=PAGE_FEATURES_HASH, use_features=DEVICE_FEATURES_HASH,
        )  # fmt: skip

    def take(self, model: CheckedModel) -> str:
        """Decide by `model` from now on, or by none; why not, or nothing."""
        if model.forest is None:
            self._value = self._use = None
            self.version = ""
            return ""
        if not isinstance(model.forest, DeviceModel):
            return "unsupported: one forest decides nothing here"
        self._value, self._use, self.version = Forest(model.forest.value), Forest(model.forest.use), model.version
        return ""

    def follow(self, steer: Lookahead, epoch: int) -> str:
        """Be steered for as long as that holds; why not, or nothing."""
        if len(steer.distance) != len(self.distance):
            return f"it steers {len(steer.distance)} layers, the model has {len(self.distance)}"
        told = steer.distance.astype(np.int32)
        self.distance = np.where((told == 0) | np.isin(told, self.distances), told, self._own).astype(np.int32)
        self.least = np.where(np.isnan(steer.least), SAFE_PROBABILITY, steer.least).astype(np.float32)
        self.pages = np.where(steer.pages < 0, NO_LIMIT, steer.pages).astype(np.int32)
        self._until = epoch + steer.steps
        return ""

    def begin_step(self, epoch: int) -> None:
        """Return to safe values once a steering has run out."""
        if self._until is not None and epoch >= self._until:
            self.distance[:], self.least[:], self.pages[:] = self._own, SAFE_PROBABILITY, NO_LIMIT
            self._until = None

    def look(self, number: int, lookahead: Mapping[int, Int32]) -> Ranked:
        """Judge what a sequence's step ranks ([lanes, r] by distance), at the distances in force.

        Nothing is sure without a model, or at a sequence's first step.
        """
        state, memory = self._of(number)
        early = self.distance.repeat(self._meta.kv_heads)[:, None]
        ranks = {d: np.where(early == d, lookahead[d], -1).astype(np.int32) for d in self.distances}
        if not state.steps:
            nobody = np.empty(0, np.int32)
            return Ranked(ranks, nobody, nobody, np.empty(0, np.float32))
        lanes, pages, rows = memory.rank(state, nearest(ranks)[0])
        sure = np.zeros(len(rows), np.float32) if self._use is None else self._use.predict(rows)
        return Ranked(ranks, lanes, pages, sure)

    def settle(
        self, number: int, length: int, pages: Int32, scores: UInt8, selected: Bool
    ) -> tuple[Int32, Int32, Float32] | None:
        """Learn a step of `length` tokens, [lanes, n] each. Returns lanes, pages and values [m] of its candidates.

        None without a model.
        """
        state, memory = self._of(number)
        if state.steps:
            memory.settle(pages, selected)
        state.observe(length, pages, scores, selected)
        if self._value is None:
            return None
        lanes, places = np.nonzero(pages >= 0)
        found = pages[lanes, places]
        return lanes.astype(np.int32), found, self._value.predict(state.rows(lanes.astype(np.int32), found))

    def forget(self, number: int) -> None:
        """A sequence has ended."""
        self._known.pop(number, None)

    def _of(self, number: int) -> tuple[DeviceState, DeviceLookahead]:
        if number not in self._known:
            meta, pages = self._meta, self._most_pages
            state = DeviceState(layers=meta.layers, kv_heads=meta.kv_heads, page_size=meta.page_size, pages=pages)
            self._known[number] = state, new_device_lookahead(pages, meta)
        return self._known[number]


def protection(sure: Float32) -> Float32:
    """Values, in log2 of steps, of pages that are so likely used at this step."""
    return (VALUE_UNUSED - (VALUE_UNUSED - VALUE_USED) * sure).astype(np.float32)


def wanted(sure: Float32, least: Float32, pages: Int32, layer: Int32) -> npt.NDArray[np.int64]:
    """Places of what to prefetch, surest first, at most `pages[layer]` of each layer; `sure`, `least`, `layer` [m]."""
    order = np.argsort(-sure, kind="stable")
    order = order[sure[order] >= least[order]]
    order = order[np.argsort(layer[order], kind="stable")]
    ranked = layer[order]
    place = np.arange(len(order)) - np.searchsorted(ranked, ranked)
    kept: npt.NDArray[np.int64] = order[place < pages[ranked]]
    return kept
