"""Rows of the device's second head: DEVICE_FEATURES of every ranked page."""

from __future__ import annotations

import numpy as np

from hotset.predictor.device.words import Float32, Int32
from hotset.predictor.features.base import Features
from hotset.predictor.lookahead import LookaheadState
from hotset.protos.device_features import PAGE_FEATURES, RANK_FEATURES
from hotset.protos.lookahead import LOOKAHEAD_FEATURES
from hotset.protos.trace import TraceMeta

_NAMES = [feature.name for feature in LOOKAHEAD_FEATURES]
_KEPT = np.array(
    [*range(len(PAGE_FEATURES)), *(len(PAGE_FEATURES) + _NAMES.index(feature.name) for feature in RANK_FEATURES)]
)


class DeviceLookahead(LookaheadState):
    """A `LookaheadState` that keeps the columns which the device has."""

    def rank(self, features: Features, ranks: Int32) -> tuple[Int32, Int32, Float32]:
        """Lanes [m], pages [m] and DEVICE_FEATURES [m, F] of all that is ranked, for a `DeviceState`."""
        lanes, pages, rows = super().rank(features, ranks)
        return lanes, pages, rows[:, _KEPT]


def new_device_lookahead(pages: int, meta: TraceMeta) -> DeviceLookahead:
    """An empty state for a decode of `meta` with pages below `pages`."""
    return DeviceLookahead(layers=meta.layers, kv_heads=meta.kv_heads, selected=meta.selected, pages=pages)
