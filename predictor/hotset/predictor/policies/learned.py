"""Learned: evict the page whose predicted next use is furthest away.

every step: value = forest(features of the page), for all resident pages of the lane
victim:     the largest value

The time to next use as the target of learned eviction, Belady's order as the ideal: Song et al., "Learning
relaxed Belady for content distribution network caching", NSDI 2020.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol

import numpy as np

from hotset.predictor.features import FeatureState
from hotset.predictor.features.base import Features
from hotset.predictor.policies.base import (
    Float32,
    PolicyError,
    Prefetch,
    SteeredPolicy,
    Steering,
    SteeringContext,
    StepView,
)
from hotset.predictor.trace.sequence import Bool, Int32

if TYPE_CHECKING:
    from hotset.predictor.model import ReuseModel


class Heads(Protocol):
    """What values pages: a `ReuseModel`, or its heads for the device."""

    def predict(self, rows: Float32) -> Float32:
        """Predicted log2 of steps to the next use, [m]."""

    def predict_use(self, rows: Float32) -> Float32:
        """Probabilities [m] of use at this step."""


class LearnedSteering:
    """Values pages of one sequence by the model; prefetches nothing."""

    def __init__(self, context: SteeringContext, heads: Heads, state: Features | None = None) -> None:
        """`state` gives the rows that `heads` take: by default a `FeatureState`."""
        meta = context.meta
        self.heads = heads
        self.state = state or FeatureState(
            layers=meta.layers,
            kv_heads=meta.kv_heads,
            page_size=meta.page_size,
            selected=meta.selected,
            pages=context.page_count,
        )

    def prefetch(self, length: int, lookahead: Mapping[int, Int32], resident: Bool) -> Prefetch | None:
        """See Steering."""
        return None

    def observe(self, step: StepView) -> None:
        """See Steering."""
        self.state.observe(step.length, step.pages, step.scores, step.selected)

    def values(self, lanes: Int32, pages: Int32) -> Float32:
        """See Steering."""
        if not len(lanes):
            return np.empty(0, np.float32)
        return self.heads.predict(self.state.rows(lanes, pages))


def _open(context: SteeringContext, model: ReuseModel | None) -> Steering:
    if model is None:
        raise PolicyError("policy 'learned' needs a model; train one, or name it with --model")
    return LearnedSteering(context, model)


POLICY = SteeredPolicy("learned", "predicted time to next use", open=_open, fresh=True)
