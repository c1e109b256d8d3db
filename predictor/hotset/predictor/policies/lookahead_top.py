"""The best of a lookahead: prefetch the top k it ranks, whatever they are; evict by age.

a layer early: prefetch the first k ranked pages of the lane (`lookahead-top@x`: the first x times k)
victim:        the page whose last use, or prefetch, is longest ago
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from hotset.predictor.policies.base import Float32, Prefetch, SteeredPolicy, Steering, SteeringContext, StepView
from hotset.predictor.policies.learned_lookahead import recorded
from hotset.predictor.trace.sequence import Bool, Int32

if TYPE_CHECKING:
    from hotset.predictor.model import ReuseModel


class TopSteering:
    """Ages of one sequence's pages, and how many ranks are fetched."""

    def __init__(self, context: SteeringContext, multiple: float) -> None:
        lanes = context.meta.layers * context.meta.kv_heads
        self._first = round(multiple * context.meta.selected)
        self._touched: Int32 = np.full((lanes, context.page_count), -1, np.int32)
        self._steps = 0

    def prefetch(self, length: int, lookahead: Mapping[int, Int32], resident: Bool) -> Prefetch | None:
        """See Steering. Raises PolicyError if the trace recorded no lookahead."""
        ranks, early = recorded(lookahead)
        best = ranks[:, : self._first]
        lanes, places = np.nonzero(best >= 0)
        self._touched[lanes, best[lanes, places]] = self._steps
        # Younger than anything that was used: wanted now.
        return Prefetch(best, np.full(best.shape, -1.0, np.float32), early)

    def observe(self, step: StepView) -> None:
        """See Steering."""
        lanes, candidates = np.nonzero(step.selected)
        self._touched[lanes, step.pages[lanes, candidates]] = self._steps
        self._steps += 1

    def values(self, lanes: Int32, pages: Int32) -> Float32:
        """See Steering."""
        return (self._steps - self._touched[lanes, pages]).astype(np.float32)


def at(multiple: float, name: str) -> SteeredPolicy:
    """The policy that fetches the first `multiple` times k."""

    def _open(context: SteeringContext, model: ReuseModel | None) -> Steering:
        return TopSteering(context, multiple)

    summary = f"prefetch the first {multiple:g}k of the lookahead, evict by age"
    return SteeredPolicy(name, summary, open=_open, needs_model=False, fresh=True)


POLICY = at(1.0, "lookahead-top")
