"""A movement budget: how sure a prefetch must be, so that a sequence moves so many times what LRU would move."""

from __future__ import annotations

import math

import numpy as np

from hotset.predictor.features.base import Features
from hotset.predictor.guard.ghost import GhostPool
from hotset.predictor.trace.sequence import Bool, Int32

_GAIN, _DEBT_GAIN, _DEBT_STEPS = 0.15, 0.15, 4.0
_SMOOTHING = 0.9
_START, _START_AT = 0.4, 1.2
"""threshold at first, and the multiple from which on it is that"""
_TIGHTER, _SUREST = 1.2, 0.95
"""what a smaller multiple adds, and the most it comes to: a short sequence has no time to make good for an overdraft"""
_MARGIN = 0.985
"""a policy cannot see the misses of pages that its own prefetches pushed out; this pays for them"""
_LEAST, _MOST = 0.02, 0.98
_HARD_LIMIT = 2.0
"""steps of allowance that may be overdrawn before prefetching stops"""


class MovementBudget:
    """Least probability of use at which to prefetch, steered after every step.

    A ghost of LRU with the same lane pools on the same accesses says what the allowance is: `multiple` times its
    misses. The threshold's log-odds follow the overdraft of the step and, more slowly, that of the sequence.
    """

    def __init__(self, multiple: float, *, lanes: int, slots_per_lane: int) -> None:
        start = min(max(_START - _TIGHTER * (multiple - _START_AT), _START), _SUREST)
        self._multiple = multiple * _MARGIN
        self._lru = GhostPool(lanes, slots_per_lane, 1)
        self._allowance = 0.0
        self._logit = math.log(start / (1.0 - start))
        self.allowed = 0.0
        """pages that may have moved so far"""
        self.moved = 0
        """pages that have moved so far"""

    @property
    def threshold(self) -> float:
        """Prefetch what is used at the coming step with at least this probability; above 1: nothing."""
        if self.moved - self.allowed > _HARD_LIMIT * self._allowance:
            return math.inf
        return 1.0 / (1.0 + math.exp(-self._logit))

    def settle(self, features: Features, pages: Int32, selected: Bool, moved: int) -> None:
        """After `features` observed a step [lanes, n]: `moved` pages moved for it, prefetches included."""
        self._lru.reserve(features.memory.pages)
        lanes, victims = self._lru.victims(pages, selected)
        ages = (features.steps - features.memory.last_used[lanes, victims]).astype(np.float32)
        misses = self._lru.serve(pages, selected, lanes, victims, ages)
        if features.steps == 1:
            return
        allowed = self._multiple * misses
        self._allowance = allowed if not self.allowed else _SMOOTHING * self._allowance + (1 - _SMOOTHING) * allowed
        self.allowed += allowed
        self.moved += moved
        scale = max(self._allowance, 1.0)
        self._logit += _GAIN * _clip((moved - allowed) / scale)
        self._logit += _DEBT_GAIN * _clip((self.moved - self.allowed) / (scale * _DEBT_STEPS))
        self._logit = min(max(self._logit, math.log(_LEAST / (1 - _LEAST))), math.log(_MOST / (1 - _MOST)))


def _clip(value: float) -> float:
    return min(max(value, -1.0), 1.0)
