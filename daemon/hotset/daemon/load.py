"""How much of every step a daemon learns: all, until steps come faster than they can be learned between two plans."""

from __future__ import annotations

import statistics
from collections import deque
from dataclasses import dataclass, field

SECONDS_A_CANDIDATE = 6e-8
"""that learning is expected to take, before a step has been learned"""
SMOOTHING = 0.9
BUSY = 0.8
LEAST_SHARE = 1 / 64
LEAST_ROOM = 0.05
GROWTH = 1.25
DRAIN = 0.5
"""of what can be learned for long, while a backlog drains: less of it would spoil the features of more sequences"""
PATIENCE = 2
"""steps that may wait to be learned before it counts as overload"""
LONGEST = 256
"""steps that may wait at all,"""
LARGEST = 1 << 23
"""and candidates in them, 6 bytes each; what is older is not learned"""


@dataclass
class Load:
    """The share of a step's lanes that fits the time which plans leave of it.

    A backlog that shrinks by itself needs nothing but time: only where the present share is more than can be had for
    long do lanes go, and as many again until the backlog is gone.
    """

    share: float = 1.0
    """of the lanes that are observed"""
    _paces: deque[float] = field(default_factory=lambda: deque([SECONDS_A_CANDIDATE] * 2, maxlen=5))
    _period: float | None = None
    _besides: float = 0.0

    def arrived(self, steps: int, since: float, besides: float) -> None:
        """`steps` came in the `since` seconds since those before; answering them took `besides`, without learning."""
        period = since / steps
        # A pause of the runtime is no sign of how fast it decodes.
        self._period = period if self._period is None else _smooth(self._period, min(period, 4 * self._period))
        self._besides = _smooth(self._besides, besides / steps)

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

    def choose(self, candidates: int, steps: int, waiting: int) -> float:
        """The share of the oldest step, of `candidates`, while `steps` of `waiting` candidates wait, it among them."""
        if steps > LONGEST or (steps > PATIENCE and waiting > LARGEST):
            return 0.0
        sustained = self._sustained(candidates)
        if steps > PATIENCE and sustained < self.share:
            self.share = max(LEAST_SHARE, DRAIN * sustained)
        elif steps == 1 and sustained > self.share:
            self.share = min(1.0, GROWTH * self.share, sustained)
        return self.share

    def _sustained(self, candidates: int) -> float:
        """What can be learned of every step, about."""
        cost = self._cost(candidates)
        if self._period is None or not cost:
            return 1.0
        return max(LEAST_ROOM * self._period, BUSY * self._period - self._besides) / cost

    def _cost(self, candidates: int) -> float:
        # Once in a while it is much more: memory is touched for the first time, or somebody else has the core.
        return candidates * statistics.median(self._paces)


def _smooth(old: float, new: float) -> float:
    return SMOOTHING * old + (1 - SMOOTHING) * new
