"""Learned with prefetch: bring back what the model expects at once, without any lookahead.

nominate: pages not resident that were used or nearly selected (candidates) within the last 16 steps
rank:     value = forest(features), smallest first
prefetch: those below the card's threshold, in log2 of steps
victim:   as in `learned`
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from hotset.predictor.policies.base import Float32, PolicyError, Prefetch, SteeredPolicy, Steering, SteeringContext
from hotset.predictor.policies.learned import LearnedSteering
from hotset.predictor.trace.sequence import Bool, Int32

if TYPE_CHECKING:
    from hotset.predictor.model import ReuseModel

RECENT = 16


class PrefetchSteering(LearnedSteering):
    """Eviction as in `learned`, plus prefetches planned after the step before."""

    def __init__(self, context: SteeringContext, model: ReuseModel) -> None:
        super().__init__(context, model)
        self._threshold = model.card.prefetch_threshold

    def prefetch(self, length: int, lookahead: Mapping[int, Int32], resident: Bool) -> Prefetch | None:
        """See Steering."""
        memory = self.state.memory
        count = min(resident.shape[1], memory.pages)
        newest = np.maximum(memory.last_used, memory.last_seen)[:, :count]
        recent = (newest >= 0) & (newest >= self.state.steps - RECENT)
        rows, columns = np.nonzero(recent & ~resident[:, :count])
        lanes: Int32 = rows.astype(np.int32)
        pages: Int32 = columns.astype(np.int32)
        values = self.values(lanes, pages)
        wanted = values < self._threshold
        if not wanted.any():
            return None
        return _by_lane(lanes[wanted], pages[wanted], values[wanted], len(resident))


def _by_lane(lanes: Int32, pages: Int32, values: Float32, lane_count: int) -> Prefetch:
    order = np.lexsort((values, lanes))
    lanes, pages, values = lanes[order], pages[order], values[order]
    place = np.arange(len(lanes)) - np.searchsorted(lanes, lanes)
    shape = (lane_count, int(place.max()) + 1)
    listed, listed_values = np.full(shape, -1, np.int32), np.full(shape, np.inf, np.float32)
    listed[lanes, place] = pages
    listed_values[lanes, place] = values
    return Prefetch(listed, listed_values, early=0)


def _open(context: SteeringContext, model: ReuseModel | None) -> Steering:
    if model is None:
        raise PolicyError("policy 'learned-prefetch' needs a model; train one, or name it with --model")
    return PrefetchSteering(context, model)


POLICY = SteeredPolicy(
    "learned-prefetch", "learned eviction, prefetch of what the model expects", open=_open, fresh=True
)
