"""Who plans: the learned model, unless its guard finds it worse than the heuristic on the session's accesses."""

from __future__ import annotations

from collections.abc import Sequence

from hotset.daemon.planner import Scorer
from hotset.daemon.resume import InService
from hotset.daemon.scorers import HeuristicScorer, LearnedScorer
from hotset.daemon.state import LaneStep
from hotset.predictor.guard import Guard, GuardReport
from hotset.protos.messages import AccessFlag, Geometry

GUARDED = 4
"""sequences that the guard follows at a time"""


class Rule:
    """`scorer` plans now. A new model rules at once; the guard judges it after every window of steps."""

    def __init__(self, geometry: Geometry, scorer: Scorer) -> None:
        self.learned: LearnedScorer | None = None
        self._geometry = geometry
        self._heuristic: Scorer = HeuristicScorer()
        self._guard: Guard | None = None
        self._guarded: set[int] = set()
        if isinstance(scorer, LearnedScorer):
            self.install(scorer, sequences=1)
        else:
            self._heuristic = scorer

    @property
    def scorer(self) -> Scorer:
        """What plans now."""
        if self.learned is None or (self._guard is not None and not self._guard.learned_ok):
            return self._heuristic
        return self.learned

    @property
    def report(self) -> GuardReport | None:
        """What the guard saw in its last window; None while there is no model to judge."""
        return None if self._guard is None else self._guard.report

    @property
    def verdict(self) -> str:
        """What the guard counted in its last window."""
        report = self.report
        if report is None:
            return ""
        return f"{report.learned_misses} ghost misses learned, {report.heuristic_misses} heuristic"

    @property
    def retrain_wanted(self) -> bool:
        """Whether the accesses have drifted off what the model was trained on."""
        return self._guard is not None and self._guard.retrain_wanted

    def install(self, scorer: LearnedScorer, *, sequences: int) -> None:
        """Let a model rule; `sequences` share the pool, which sizes the ghosts."""
        shape = self._geometry
        slots = max(shape.selected, shape.slots // (shape.lanes * max(1, sequences)))
        self.learned = scorer
        self._guard = Guard(scorer.model, lanes=shape.lanes, slots_per_lane=slots)

    @property
    def in_service(self) -> InService | None:
        """The model that may rule, with the guard's verdict; None if there is none, or none with files."""
        learned, report = self.learned, self.report
        if learned is None or learned.folder is None or report is None:
            return None
        return InService(
            folder=learned.folder, sha256=learned.model.card.sha256, guard_ok=report.learned_ok,
            learned_misses=report.learned_misses, heuristic_misses=report.heuristic_misses,
        )  # fmt: skip

    def recall(self, before: InService) -> None:
        """Let an earlier guard's verdict on the installed model stand until the next window."""
        if self._guard is not None:
            self._guard.report = GuardReport(before.learned_misses, before.heuristic_misses, before.guard_ok)

    def observe(self, parts: Sequence[LaneStep]) -> None:
        """One step, right after the sequences' features observed it.

        The guard follows a few sequences, as long as they go on: it costs more than to observe them.
        """
        if self._guard is None:
            return
        for part in parts:
            sequence = part.sequence
            if sequence.id not in self._guarded and len(self._guarded) >= GUARDED:
                continue
            if sequence.has_features:
                self._guarded.add(sequence.id)
                selected = (part.flags & AccessFlag.SELECTED) != 0
                with sequence.lock:
                    self._guard.observe(sequence.id, sequence.features, part.pages, selected)

    def forget(self, sequence: int) -> None:
        """A sequence has ended."""
        self._guarded.discard(sequence)
        if self._guard is not None:
            self._guard.forget(sequence)
