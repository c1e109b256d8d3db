"""How sure a prefetch inside the step must be, layer by layer, so that the link carries it beside all else.

    budget of a step:  link_share * rate * length of the step - what demand misses and plans moved
    share of a layer:  by what it loads and uses, at most what the link moves while its lookahead runs ahead
    after each look:   log-odds of the threshold follow (wanted - share) / share; never below the floor

`wanted` are pages that were prefetched or held back. If attention waits for prefetches on the link all the same, the
rate is not what it seemed, and the budget shrinks until it does not.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from hotset.daemon.instep.layers import FIGURES
from hotset.protos.lookahead import SAFE_PROBABILITY
from hotset.protos.messages import LayerFigure, Step

Float64 = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]

KEPT = 0.95
"""of what was seen, a step: soon enough for the looks to see what the last of them did"""
GAIN = 0.4
MOST = 0.98
WAITED = 0.02
"""share of a step that attention may wait for prefetches before the budget shrinks"""
SHRINK, GROW, LEAST_TRUST = 0.8, 1.05, 1 / 16
SLACK = 2.0
"""pages that a layer may prefetch in one step over its share, which is an average"""


class Thresholds:
    """`least` [layers] probabilities, `pages` [layers] most prefetches of a layer in a step."""

    def __init__(self, layers: int) -> None:
        self.least: Float64 = np.full(layers, SAFE_PROBABILITY)
        self.pages: npt.NDArray[np.int32] = np.full(layers, -1, np.int32)
        self.trust = 1.0
        """in the budget: below 1 while prefetches have kept attention waiting"""
        self._length = self._stall = 0.0
        self._recent: Float64 = np.zeros((FIGURES, layers))
        self._steps = 0

    def observe(self, step: Step) -> None:
        """One step of a runtime that tells figures by layer."""
        self._steps += 1
        kept = min(KEPT, 1 - 1 / self._steps)
        self._length = kept * self._length + (1 - kept) * step.stats.step_us
        self._stall = kept * self._stall + (1 - kept) * step.stats.stall_us
        told = step.by_layer[:FIGURES]
        self._recent *= kept
        self._recent[: len(told)] += (1 - kept) * told

    def look(self, rate: float, *, page_bytes: int, share: float, floor: float, distance: Counts) -> None:
        """Steer after some steps. `rate` is the link's in bytes a microsecond, `distance` [layers] that in force."""
        recent = self._recent
        self._trust(float(recent[LayerFigure.LINK_STALL_US].sum()))
        link = self.trust * share * rate / page_bytes
        other = float(recent[LayerFigure.DEMAND_PAGES].sum() + recent[LayerFigure.PLAN_PAGES].sum())
        free = max(0.0, link * self._length - other)
        allowed = np.minimum(free * _shares(recent), self._in_time(link, distance))
        wanted = recent[LayerFigure.STEP_PAGES] + recent[LayerFigure.HELD_PAGES]
        off = np.clip((wanted - allowed) / np.maximum(allowed, 1.0), -1.0, 1.0)
        logit = np.log(self.least / (1 - self.least)) + GAIN * off
        self.least = np.clip(1 / (1 + np.exp(-logit)), min(max(floor, 0.001), MOST), MOST)
        self.pages = np.ceil(SLACK * allowed).astype(np.int32)

    def _in_time(self, link: float, distance: Counts) -> Float64:
        """[layers] pages that the link moves from a layer's lookahead to its turn."""
        layer_us = max(0.0, self._length - self._stall) / len(distance)
        return link * layer_us * np.maximum(distance, 1)

    def _trust(self, waited_us: float) -> None:
        late = waited_us > WAITED * self._length
        self.trust = max(LEAST_TRUST, self.trust * SHRINK) if late else min(1.0, self.trust * GROW)


def _shares(recent: Float64) -> Float64:
    """[layers] of the budget: where pages are new, prefetches can help; nobody is left without any."""
    news = recent[LayerFigure.DEMAND_PAGES] + recent[LayerFigure.STEP_USED]
    news = news + 0.1 * news.mean() + 1e-9
    shares: Float64 = news / news.sum()
    return shares
