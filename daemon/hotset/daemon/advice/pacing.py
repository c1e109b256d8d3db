"""How soon to admit: so that warm-ups of new sequences stall no more than a share of the time.

    every = stall of a newcomer's warm-up / (warm_share * step)

but never so slow that sequences end faster than they may come. A new sequence's first steps miss what it has to load
anyway; several at once queue for the link, and push out what the others need.
"""

from __future__ import annotations

import math

MOST_EVERY = 32
CHEAP = 0.02
"""A warm-up of less than this share of a step needs no pacing."""
FASTER = 4
"""than sequences end, at least"""
CHANGE = 2.5


class Pacer:
    """`every` is what to advise, None for as soon as there is room."""

    def __init__(self, warm_share: float, half_life: float) -> None:
        self.every: int | None = None
        self._share = warm_share
        self._keep = 0.5 ** (1 / half_life)
        self._steps = self._us = self._ended = 0.0

    def observe(self, step_us: int, warm_us: float) -> None:
        """One step; `warm_us`: expected stall of one newcomer's warm-up."""
        self._steps = self._keep * self._steps + 1
        self._us = self._keep * self._us + step_us
        self._ended *= self._keep
        wanted = self._wanted(warm_us)
        if wanted is None or self.every is None or not 1 / CHANGE < wanted / self.every < CHANGE:
            self.every = wanted

    def ended(self) -> None:
        """A sequence has ended; its place wants to be filled."""
        self._ended += 1

    def _wanted(self, warm_us: float) -> int | None:
        step_us = self._us / self._steps
        if not step_us or warm_us < CHEAP * step_us:
            return None
        wanted = max(2, min(MOST_EVERY, math.ceil(warm_us / (self._share * step_us))))
        # Those that came together end together: their places may not stay empty for long.
        most = int(self._steps / (FASTER * self._ended)) if self._ended else MOST_EVERY
        return min(wanted, most) if most > 1 else None
