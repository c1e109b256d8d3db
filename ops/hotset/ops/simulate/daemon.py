"""What a daemon's scoring costs in virtual time: a stopwatch for its turns, scorers on it, and values made ahead.

The daemon's own rule then decides, as it does beside a real decode, whether a plan is of the newest step or of values
that were made ahead, and how many pages there is time for.
"""

from __future__ import annotations

from collections.abc import Callable

from hotset.daemon.ahead import Ahead
from hotset.daemon.scorers import Float32, HeuristicScorer, Int32, LearnedScorer
from hotset.daemon.sequence import SequenceState
from hotset.daemon.state import SessionState
from hotset.daemon.turns import Scored, Scorer

HEURISTIC_NS, LEARNED_NS = 200.0, 2000.0
"""Nanoseconds a page on one core, as docs/daemon-performance.md measured them."""


class Stopwatch:
    """Virtual time: when a turn began, and what it has spent since. `score_ns` is what a page costs to score."""

    def __init__(self, score_ns: float) -> None:
        self.page_us = score_ns / 1e3
        self.now_us = 0.0
        self.spent_us = 0.0

    def turn(self, now_us: float) -> None:
        """A turn begins."""
        self.now_us, self.spent_us = now_us, 0.0

    def seconds(self) -> float:
        """The daemon's clock."""
        return (self.now_us + self.spent_us) / 1e6


class CostedHeuristic(HeuristicScorer):
    """The heuristic, which takes its time."""

    def __init__(self, watch: Stopwatch) -> None:
        self._watch = watch

    def values(self, sequence: SequenceState, lanes: Int32, pages: Int32) -> Float32:
        """See planner.Scorer."""
        self._watch.spent_us += len(pages) * self._watch.page_us
        return super().values(sequence, lanes, pages)


class CostedModel(LearnedScorer):
    """A model, which takes its time. The heuristic by which a guard replaces it takes none."""

    def __init__(self, scorer: LearnedScorer, watch: Stopwatch) -> None:
        super().__init__(scorer.model, scorer.folder)
        self._watch = watch

    def values(self, sequence: SequenceState, lanes: Int32, pages: Int32) -> Float32:
        """See planner.Scorer."""
        self._watch.spent_us += len(pages) * self._watch.page_us
        return super().values(sequence, lanes, pages)


class VirtualAhead(Ahead):
    """Ahead without a thread: `catch_up` scores what the thread would have scored by now.

    What a session knows changes only in its turns, so that it makes no difference when between two of them it is asked.
    """

    def __init__(self, watch: Stopwatch, state: SessionState, spent: Callable[[int, float], None]) -> None:
        super().__init__(state, spent)
        self._watch = watch
        self._free_us = 0.0
        self._slice: tuple[float, Scorer, list[Scored]] | None = None

    def begin(self) -> None:
        """See Ahead."""
        self._free_us = max(self._free_us, self._watch.now_us + self._watch.spent_us)

    def catch_up(self, now_us: float) -> None:
        """Finish the slices that end by `now_us`; before a turn."""
        while self._slice is not None or self.wanted:
            if self._slice is None:
                self._slice = self._next_slice()
            ends_us, scorer, parts = self._slice
            if ends_us > now_us:
                return
            pages = sum(len(part.pages) for part in parts)
            self._spent(pages, pages * self._watch.page_us / 1e6)
            self._put(scorer, parts)
            self._slice, self._free_us = None, ends_us

    def _next_slice(self) -> tuple[float, Scorer, list[Scored]]:
        work = self._next()
        assert work is not None
        parts = self.score(*work)
        return self._free_us + sum(len(part.pages) for part in parts) * self._watch.page_us, work[0], parts
