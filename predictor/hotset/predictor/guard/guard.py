"""The guard: ghost pools decide whether the learned policy may rule; drift tells when to train anew."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from hotset.predictor.dataset import choose
from hotset.predictor.features import FeatureState
from hotset.predictor.guard.drift import FeatureDrift
from hotset.predictor.guard.error import PendingPredictions
from hotset.predictor.guard.ghost import GhostPool
from hotset.predictor.model import ReuseModel
from hotset.protos.features import FEATURES

Int32 = npt.NDArray[np.int32]
Bool = npt.NDArray[np.bool_]

TOLERANCE = 0.02
"""share by which the learned policy may miss more than the heuristic over a window"""
WINDOW = 128
"""observed steps (of all sequences together) between two judgements"""
LEAST_MISSES = 500
"""of the heuristic in a window, below which it is too short to judge"""
DRIFT_LIMIT = 0.25
ERROR_LIMIT = 1.5
"""times the card's error"""
LEAST_ROWS = 2000
_SAMPLED_LANES = 4
_SAMPLED_ROWS = 16


@dataclass(frozen=True)
class GuardReport:
    """What the last full window showed; empty before the first one."""

    learned_misses: int = 0
    heuristic_misses: int = 0
    learned_ok: bool = True
    drift: dict[str, float] = field(default_factory=dict)
    """population stability index by feature, of the features that the model tests"""
    error: float | None = None
    """mean squared error of the predictions that came due, in squared log2 steps"""
    retrain_wanted: bool = False
    reason: str = ""


class _Ghosts:
    """Ghost pools and waiting predictions of one sequence."""

    def __init__(self, lanes: Int32, slots: int) -> None:
        self.lanes = lanes
        self.learned = GhostPool(len(lanes), slots, 1)
        self.heuristic = GhostPool(len(lanes), slots, 1)
        self.pending = PendingPredictions()


class Guard:
    """Judges one model on the accesses of one session.

    The ghosts run both policies on the same accesses of a few lanes of every sequence, with `slots_per_lane`
    slots each. After every window of steps the learned policy loses its turn if it missed more than TOLERANCE
    over the heuristic (`margin-ema`), and gets it back once it misses no more than the heuristic.
    """

    def __init__(
        self, model: ReuseModel, *, lanes: int, slots_per_lane: int, window: int = WINDOW, seed: int = 0
    ) -> None:
        self._model = model
        self._slots = slots_per_lane
        self._lanes = lanes
        self._window = window
        self._random = np.random.default_rng(seed)
        self._ghosts: dict[int, _Ghosts] = {}
        self._drift = FeatureDrift(model.card)
        self._tested = set(np.unique(model.forest.to_arrays().feature).tolist())
        self._steps = 0
        self._misses = {True: 0, False: 0}
        self._error, self._settled = 0.0, 0
        self.report = GuardReport()

    @property
    def learned_ok(self) -> bool:
        """Whether the learned policy may rule. True until a full window says otherwise."""
        return self.report.learned_ok

    @property
    def retrain_wanted(self) -> bool:
        """Whether features or prediction error have drifted off what the model's card states."""
        return self.report.retrain_wanted

    def observe(self, sequence: int, features: FeatureState, pages: Int32, selected: Bool) -> None:
        """One step of one sequence, right after `features` observed it; arrays are [lanes, n].

        Costs about one scoring of 4 lanes.
        """
        ghosts = self._ghosts.get(sequence)
        if ghosts is None:
            ghosts = self._ghosts[sequence] = self._new_ghosts()
        first = features.steps == 1
        self._serve(ghosts, features, pages[ghosts.lanes], selected[ghosts.lanes], cold=first)
        self._check_predictions(ghosts, features)
        self._steps += 1
        if self._steps >= self._window:
            self._judge()

    def forget(self, sequence: int) -> None:
        """The sequence has ended."""
        self._ghosts.pop(sequence, None)

    def _new_ghosts(self) -> _Ghosts:
        count = min(_SAMPLED_LANES, self._lanes)
        chosen = self._random.choice(self._lanes, count, replace=False)
        return _Ghosts(np.sort(chosen).astype(np.int32), self._slots)

    def _serve(self, ghosts: _Ghosts, features: FeatureState, pages: Int32, selected: Bool, *, cold: bool) -> None:
        memory = features.memory
        for pool, learned in ((ghosts.learned, True), (ghosts.heuristic, False)):
            pool.reserve(memory.pages)
            rows, victims = pool.victims(pages, selected)
            lanes = ghosts.lanes[rows]
            values = (
                self._model.predict(features.rows(lanes, victims))
                if learned
                else -features.margin_average(lanes, victims)
            )
            misses = pool.serve(pages, selected, rows, victims, values)
            if not cold:
                self._misses[learned] += misses

    def _check_predictions(self, ghosts: _Ghosts, features: FeatureState) -> None:
        error, count = ghosts.pending.settle(features.steps - 1, features.memory.last_used)
        self._error += error
        self._settled += count
        lanes, pages = choose(features, _SAMPLED_ROWS, self._random)
        rows = features.rows(lanes, pages)
        self._drift.add(rows)
        ghosts.pending.add(features.steps - 1, lanes, pages, self._model.predict(rows))

    def _judge(self) -> None:
        learned, heuristic = self._misses[True], self._misses[False]
        self._steps = 0
        if heuristic < LEAST_MISSES and learned < LEAST_MISSES:
            return
        limit = heuristic * (1.0 + TOLERANCE) if self.report.learned_ok else heuristic
        drift, error, reason = self.report.drift, self.report.error, self.report.reason
        if self._drift.rows >= LEAST_ROWS and self._settled >= LEAST_ROWS // 2:
            drift, error = self._tested_drift(), self._error / self._settled
            reason = self._reason(drift, error)
            self._drift.reset()
            self._error, self._settled = 0.0, 0
        self.report = GuardReport(learned, heuristic, learned <= limit, drift, error, bool(reason), reason)
        self._misses = {True: 0, False: 0}

    def _tested_drift(self) -> dict[str, float]:
        tested = {FEATURES[column].name for column in self._tested}
        return {name: index for name, index in self._drift.indices().items() if name in tested}

    def _reason(self, drift: dict[str, float], error: float) -> str:
        known = self._model.card.error
        if known is not None and error > ERROR_LIMIT * known:
            return f"prediction error {error:.2f}, {error / known:.1f} times that of training"
        worst = max(drift, key=lambda name: drift[name], default="")
        if worst and drift[worst] > DRIFT_LIMIT:
            return f"feature {worst} has drifted: stability index {drift[worst]:.2f}"
        return ""
