"""Prediction error at work: predictions wait until their page is used, or until that would be too late to count."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from hotset.predictor import recipe

Bool = npt.NDArray[np.bool_]
Int32 = npt.NDArray[np.int32]
Float32 = npt.NDArray[np.float32]


class PendingPredictions:
    """Predictions for one sequence that still wait for their outcome."""

    def __init__(self) -> None:
        self._lanes = np.empty(0, np.int32)
        self._pages = np.empty(0, np.int32)
        self._steps = np.empty(0, np.int32)
        self._values = np.empty(0, np.float32)

    def settle(self, step: int, last_used: Int32) -> tuple[float, int]:
        """Outcomes known at `step`, given last_used [lanes, P] with that step's uses in it.

        Returns the sum of squared errors, in squared log2 steps capped as in training, and their number.
        """
        used = last_used[self._lanes, self._pages] > self._steps
        late = step - self._steps >= 2**recipe.CAP
        done = used | late
        waited = np.log2(np.maximum(step - self._steps[done], 1))
        errors = self._values[done] - np.minimum(waited, recipe.CAP)
        self._keep(~done)
        return float((errors**2).sum()), int(done.sum())

    def add(self, step: int, lanes: Int32, pages: Int32, values: Float32) -> None:
        """Predictions made after `step`."""
        self._lanes = np.concatenate([self._lanes, lanes])
        self._pages = np.concatenate([self._pages, pages])
        self._steps = np.concatenate([self._steps, np.full(len(lanes), step, np.int32)])
        self._values = np.concatenate([self._values, values])

    def _keep(self, chosen: Bool) -> None:
        self._lanes, self._pages = self._lanes[chosen], self._pages[chosen]
        self._steps, self._values = self._steps[chosen], self._values[chosen]
