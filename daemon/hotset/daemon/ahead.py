"""Values made ahead, on a thread of their own, so that a plan needs no more than to be put together.

Compiled code runs without the interpreter's lock, and a sequence is locked only while its features are read, so
that observing steps and scoring pages share two cores. What a scorer that is slow cannot do in time is missing in
the plan, and nothing waits for it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from hotset.daemon.config import PlanRules
from hotset.daemon.events import say
from hotset.daemon.state import SessionState
from hotset.daemon.turns import Scored, Scorer, Turns

SLICE = 1024
"""pages scored between two looks at whether there is news"""


class Ahead:
    """Scores lanes in turn from `start` on: between two calls of `take` each at most once, and `rules.rows` pages."""

    def __init__(self, state: SessionState, spent: Callable[[int, float], None]) -> None:
        """`spent(pages, seconds)` is told what each slice took."""
        self._state, self._spent = state, spent
        self._changed = threading.Condition()
        self._scorer: Scorer | None = None
        self._rules = PlanRules()
        self._parts: list[Scored] = []
        self._lanes = self._rows = 0
        self._stopped = False
        self._thread: threading.Thread | None = None
        self._turns = Turns(near=True)

    @property
    def running(self) -> bool:
        """Whether values are being made, or wait to be taken."""
        return self._scorer is not None

    @property
    def wanted(self) -> bool:
        """Whether there is something left to score."""
        return self._scorer is not None and self._lanes > 0 and self._rows > 0

    def start(self, scorer: Scorer, rules: PlanRules) -> None:
        """There is news to score, or another scorer to do it; values that another made are dropped."""
        with self._changed:
            if scorer is not self._scorer:
                self._parts = []
            self._lanes = self._state.lanes - sum(part.lanes for part in self._parts)
            self._rows = rules.rows - sum(len(part.pages) for part in self._parts)
            self._scorer, self._rules = scorer, rules
            self._changed.notify()
        self.begin()

    def begin(self) -> None:
        """Have somebody score what `start` asks for: a thread of its own; a simulation does it in another way."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="hotset-score", daemon=True)
            self._thread.start()

    def take(self) -> list[Scored]:
        """What was scored since the last call. Goes on if a round is not over; else waits for `start`."""
        with self._changed:
            parts, self._parts = self._parts, []
            if self._lanes > 0 and self._rows > 0:
                # It did not get all done that a plan may hold: no time is to lose.
                self._lanes, self._rows = self._state.lanes, self._rules.rows
                self._changed.notify()
            return parts

    def pause(self) -> None:
        """Score no more until the next `start`; what was scored is void."""
        with self._changed:
            self._scorer, self._parts, self._lanes = None, [], 0

    def close(self) -> None:
        """Stop the thread, after the slice that it is at."""
        with self._changed:
            self._stopped = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        try:
            while (work := self._next()) is not None:
                began = time.perf_counter()
                parts = self.score(*work)
                self._spent(sum(len(part.pages) for part in parts), time.perf_counter() - began)
                self._put(work[0], parts)
        except Exception as error:  # noqa: BLE001 - it is logged, with its traceback
            # Decoding goes on without plans; the session must not end for it.
            say(logging.ERROR, "scoring_failed", failure=error)

    def score(self, scorer: Scorer, rules: PlanRules, rows: int, lanes: int) -> list[Scored]:
        """Score about `rows` pages of at most `lanes` lanes, whose turn it is."""
        return self._turns.score(self._state, scorer, rules, rows, lanes)

    def _next(self) -> tuple[Scorer, PlanRules, int, int] | None:
        with self._changed:
            self._changed.wait_for(lambda: self._stopped or self.wanted)
            if self._stopped or self._scorer is None:
                return None
            return self._scorer, self._rules, min(SLICE, self._rows), self._lanes

    def _put(self, scorer: Scorer, parts: list[Scored]) -> None:
        with self._changed:
            # A round ends even if its last lanes are gone.
            self._lanes = self._lanes - sum(part.lanes for part in parts) if parts else 0
            self._rows -= sum(len(part.pages) for part in parts)
            if scorer is self._scorer:
                self._parts += parts
