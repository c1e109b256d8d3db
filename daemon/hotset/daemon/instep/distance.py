"""How many layers early each layer looks ahead: one is surer, two leave the link more time.

score of a layer:  (pages that came by a prefetch and were used - what attention waited for prefetches, in pages)
                   over all pages that it loaded: coverage for what it moved
a trial:           steps at the distance in force, then as many at the other; each layer keeps the better one
rest:              doubles with each trial that changes nothing
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from hotset.daemon.instep.layers import FIGURES
from hotset.protos.messages import LayerFigure

Float64 = npt.NDArray[np.float64]
Int8 = npt.NDArray[np.int8]

TOLERANCE = 0.05
"""by which a score must be better to change a layer's distance"""
MOST_REST = 1 << 15


class Distances:
    """`now` [layers] what to ask for: the distance in force or, in a trial, the other one."""

    def __init__(self, layers: int, *, trial: int, rest: int) -> None:
        self.chosen: Int8 = np.minimum(np.arange(layers), 1).astype(np.int8)
        """the first layer has nothing that its query could be estimated from"""
        self.trials = 0
        self._trial, self._rest = trial, rest
        self._left = trial
        self._phase = "rest"
        self._sum: Float64 = np.zeros((FIGURES, layers))
        self._before: Float64 = np.zeros(layers)

    @property
    def other(self) -> Int8:
        """[layers] the distance that is not chosen; the same where there is no other."""
        early = np.where(self.chosen == 1, 2, 1)
        return np.where(np.arange(len(early)) >= 2, early, self.chosen).astype(np.int8)

    @property
    def now(self) -> Int8:
        """See the class."""
        return self.other if self._phase == "other" else self.chosen

    def observe(self, figures: npt.NDArray[np.int32], pages_per_us: float) -> None:
        """One step's [figures, layers], in which prefetches were made; the link's rate in pages a microsecond."""
        if self._phase != "rest":
            self._sum[: len(figures)] += figures[:FIGURES]
        self._left -= 1
        if self._left <= 0:
            self._turn(pages_per_us)

    def _turn(self, pages_per_us: float) -> None:
        scores = _scores(self._sum, pages_per_us)
        self._sum[:] = 0
        if self._phase == "rest":
            self._phase, self._left = "same", self._trial
        elif self._phase == "same":
            self._phase, self._left, self._before = "other", self._trial, scores
        else:
            better = scores > self._before + TOLERANCE
            self.chosen = np.where(better, self.other, self.chosen).astype(np.int8)
            self.trials += 1
            self._rest = self._rest if better.any() else min(MOST_REST, 2 * self._rest)
            self._phase, self._left = "rest", self._rest


def _scores(total: Float64, pages_per_us: float) -> Float64:
    used = total[LayerFigure.STEP_USED] - total[LayerFigure.LINK_STALL_US] * pages_per_us
    loaded = total[LayerFigure.DEMAND_PAGES] + total[LayerFigure.STEP_PAGES]
    scores: Float64 = np.divide(used, loaded, out=np.zeros(len(used)), where=loaded > 0)
    return scores
