"""Learned with lookahead: prefetch what a second head expects to be used at this very step.

a layer early: p = use head(features as of the step before, ranks of the lookahead), for every ranked page
prefetch:      not resident and p at least the threshold that keeps moved bytes at 1.2 times LRU's
protect:       resident pages that are ranked take a value by p, so that no prefetch takes their place
victim:        as in `learned`
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from hotset.predictor.features.base import Features
from hotset.predictor.lookahead import LookaheadState, nearest, new_lookahead
from hotset.predictor.policies.base import (
    Float32,
    PolicyError,
    Prefetch,
    SteeredPolicy,
    Steering,
    SteeringContext,
    StepView,
)
from hotset.predictor.policies.budget import MovementBudget
from hotset.predictor.policies.learned import Heads, LearnedSteering
from hotset.predictor.trace.sequence import Bool, Int32
from hotset.protos.lookahead import PROTECTED, VALUE_UNUSED, VALUE_USED

if TYPE_CHECKING:
    from hotset.predictor.model import ReuseModel

DEFAULT_BUDGET = 1.2


class LookaheadSteering(LearnedSteering):
    """Eviction as in `learned`, prefetches by the second head within a movement budget."""

    def __init__(
        self,
        context: SteeringContext,
        heads: Heads,
        budget: float,
        states: tuple[Features, LookaheadState] | None = None,
    ) -> None:
        """`states` give the rows that `heads` take: by default those of the whole feature set."""
        features, ranks = states or (None, new_lookahead(context.page_count, context.meta))
        super().__init__(context, heads, features)
        lanes = context.meta.layers * context.meta.kv_heads
        self._ranks = ranks
        self._budget = MovementBudget(budget, lanes=lanes, slots_per_lane=context.slots_per_lane)
        self._resident: Bool = np.zeros((lanes, context.page_count), np.bool_)
        self._prefetched = 0

    def prefetch(self, length: int, lookahead: Mapping[int, Int32], resident: Bool) -> Prefetch | None:
        """See Steering. Raises PolicyError if the trace recorded no lookahead."""
        ranks, early = recorded(lookahead)
        lanes, pages, rows = self._ranks.rank(self.state, ranks)
        sure = self.heads.predict_use(rows)
        here = resident[lanes, pages]
        wanted = np.where(here, sure >= PROTECTED, sure >= self._budget.threshold)
        self._resident = resident.copy()
        self._resident[lanes[wanted], pages[wanted]] = True
        self._prefetched = int((wanted & ~here).sum())
        return _by_lane(lanes[wanted], pages[wanted], sure[wanted], ranks.shape, early)

    def observe(self, step: StepView) -> None:
        """See Steering."""
        super().observe(step)
        self._ranks.settle(step.pages, step.selected)
        lane, candidate = np.nonzero(step.selected)
        missed = int((~self._resident[lane, step.pages[lane, candidate]]).sum())
        self._budget.settle(self.state, step.pages, step.selected, missed + self._prefetched)


def recorded(lookahead: Mapping[int, Int32]) -> tuple[Int32, int]:
    """`nearest`, for a policy: raises PolicyError if the trace recorded no lookahead."""
    if not lookahead:
        raise PolicyError("this policy needs a trace with a recorded lookahead")
    return nearest(lookahead)


def _by_lane(lanes: Int32, pages: Int32, sure: Float32, shape: tuple[int, ...], early: int) -> Prefetch:
    """Pages by lane, surest first, with values between VALUE_USED and VALUE_UNUSED."""
    order = np.lexsort((-sure, lanes))
    lanes, pages, sure = lanes[order], pages[order], sure[order]
    place = np.arange(len(lanes)) - np.searchsorted(lanes, lanes)
    listed = np.full(shape, -1, np.int32)
    values = np.full(shape, np.inf, np.float32)
    listed[lanes, place] = pages
    values[lanes, place] = VALUE_UNUSED - (VALUE_UNUSED - VALUE_USED) * sure
    return Prefetch(listed, values, early)


def open_with(budget: float, context: SteeringContext, model: ReuseModel | None) -> Steering:
    """A steering that moves `budget` times what LRU would. Raises PolicyError without a model of two heads."""
    if model is None or model.use_forest is None:
        raise PolicyError("this policy needs a model trained on a log that recorded a lookahead")
    return LookaheadSteering(context, model, budget)


def at(budget: float, name: str) -> SteeredPolicy:
    """The policy that moves `budget` times what LRU would."""
    summary = f"prefetch by lookahead, {budget:g} times LRU's bytes"
    opens = partial(open_with, budget)
    return SteeredPolicy(name, summary, open=opens, fresh=True)


POLICY = at(DEFAULT_BUDGET, "learned-lookahead")
