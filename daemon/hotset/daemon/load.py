"""How much of every step a daemon learns: all, until steps come faster than they can be learned between two plans."""

from __future__ import annotations

import math
import statistics
from collections import deque
from dataclasses import dataclass, field

SECONDS_A_CANDIDATE = 6e-8
"""that learning is expected to take, before a step has been learned"""
TURNS = 8
"""by which the time between steps is known"""
BUSY = 0.8
LEAST_SHARE = 1 / 64
LEAST_ROOM = 0.05
GROWTH = 1.25
DRAIN = 0.5
"""of what can be learned for long, while a backlog drains"""
PATIENCE = 2
"""steps that may wait to be learned before it counts as overload"""
LONGEST = 256
"""steps that may wait at all,"""
LARGEST = 1 << 24
"""and candidates in them, 6 bytes each; what is older is not learned"""
HICCUP = 4.0
"""times what there is room for: so long may a step take while all are learned, as others may have had the core"""


@dataclass
class Load:
    """The share of a step's lanes that fits the time which plans leave of it.

    A backlog that shrinks by itself needs nothing but time: only where not all can be learned for long do lanes go, and
    as many again until the backlog is gone.
    """

    share: float = 1.0
    """of the lanes that are observed"""
    _paces: deque[float] = field(default_factory=lambda: deque([SECONDS_A_CANDIDATE] * 2, maxlen=5))
    _turns: deque[tuple[int, float, float]] = field(default_factory=lambda: deque(maxlen=TURNS))

    @property
    def knows_pace(self) -> bool:
        """Whether it was told how long steps took to come."""
        return bool(self._turns)

    def arrived(self, steps: int, since: float | None, besides: float) -> None:
        """`steps` came in the `since` seconds since those before; answering them took `besides`, without learning."""
        if since is not None:
            self._turns.append((steps, since, besides))

    def learned(self, candidates: int, share: float, seconds: float) -> None:
        """To learn `share` of a step's `candidates` took so long, with all that goes with it."""
        if candidates:
            self._paces.append(seconds / (candidates * share))
        if not seconds:
            # A simulated clock, on which this will never take any time.
            self._paces.clear()
            self._paces.append(0.0)

    def expected(self, candidates: int) -> float:
        """Seconds to learn so many candidates at the present share."""
        return self._cost(candidates) * self.share

    def late(self, seconds: float, steps: int) -> bool:
        """Whether learning a step for so long is enough, while `steps` wait, it among them.

        One step that takes long says nothing yet of those that follow: if they do too, `choose` finds out.
        """
        return steps > PATIENCE and seconds >= (DRAIN if self.share < 1.0 else HICCUP) * self._room

    def choose(self, candidates: int, steps: int, waiting: int) -> float:
        """The share of the oldest step, of `candidates`, while `steps` of `waiting` candidates wait, it among them."""
        if steps > LONGEST or (steps > PATIENCE and waiting > LARGEST):
            return 0.0
        cost = self._cost(candidates)
        sustained = self._room / cost if cost else 1.0
        if steps > PATIENCE and min(self.share, sustained) < 1.0:
            # Where the first guess cut too deep, the backlog need not be over before that is made good.
            self.share = min(1.0, GROWTH * self.share, max(LEAST_SHARE, DRAIN * sustained))
        elif steps == 1 and sustained > self.share:
            self.share = min(1.0, GROWTH * self.share, sustained)
        return self.share

    @property
    def _room(self) -> float:
        """Seconds that learning one step may take for long: what plans leave of the time between two steps."""
        if not self.knows_pace:
            return math.inf
        steps = sum(steps for steps, _, _ in self._turns)
        period = sum(since for _, since, _ in self._turns) / steps
        besides = sum(besides for _, _, besides in self._turns) / steps
        return max(LEAST_ROOM * period, BUSY * period - besides)

    def cut(self, sustained: float) -> None:
        """No more than this share can be learned for long, and there is a backlog."""
        self.share = min(self.share, max(LEAST_SHARE, DRAIN * sustained))

    def _cost(self, candidates: int) -> float:
        # Once in a while it is much more: somebody else has the core.
        return candidates * statistics.median(self._paces)
