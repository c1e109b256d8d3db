"""Steps that were taken and wait to be learned, in their order, a sequence's part a learner at a time."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import NamedTuple

from hotset.daemon.load import Load
from hotset.daemon.sequence import LaneStep
from hotset.daemon.state import SessionState
from hotset.protos.messages import Step


class Taken(NamedTuple):
    """A step whose tables and residency are known, and what is left to be learned of it."""

    message: Step
    parts: list[LaneStep]


class Backlog:
    """A plan comes before all learning, and learning stops for news: a backlog delays no plan, but ages its values."""

    def __init__(
        self, state: SessionState, learned: Callable[[Taken, bool], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`learned` is called once a step is done with, and told whether any lane was observed."""
        self.load = Load()
        self._state, self._learned, self._clock = state, learned, clock
        self._steps: deque[Taken] = deque()
        self._candidates = 0
        self._under_way: Iterator[None] | None = None

    def __len__(self) -> int:
        return len(self._steps)

    @property
    def expected(self) -> float:
        """Seconds that it takes to learn all that waits, about."""
        return self.load.expected(self._candidates)

    def add(self, step: Taken) -> None:
        """The newest step."""
        self._steps.append(step)
        self._candidates += step.message.candidates.size

    def learn_some(self) -> bool:
        """Learn one turn of the oldest step (SessionState.learning), or finish it; False if nothing waits."""
        if not self._steps:
            return False
        if self._under_way is None:
            self._under_way = self._learn(self._steps[0])
        if next(self._under_way, self) is self:
            self._under_way = None
        return True

    def learn_all(self) -> None:
        """Learn all that waits."""
        while self.learn_some():
            pass

    def _learn(self, step: Taken) -> Iterator[None]:
        size, load = step.message.candidates.size, self.load
        share = load.choose(size, len(self._steps), self._candidates)
        began, spent, seen = self._clock(), 0.0, 0

        def late() -> bool:
            return load.late(spent, len(self._steps))

        for lanes in self._state.learning(step.parts, step.message.epoch, share, late):
            spent, seen = spent + self._clock() - began, seen + lanes
            yield
            began = self._clock()
        self._learned(step, seen > 0)
        if seen:
            observed = seen / (self._state.geometry.lanes * len(step.parts))
            load.learned(size, observed, spent + self._clock() - began)
            if late():
                load.cut(observed)
        self._steps.popleft()
        self._candidates -= size
