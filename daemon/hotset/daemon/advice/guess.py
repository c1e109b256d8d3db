"""Where to begin measuring: go where a model of the load points, until it points at where we are.

    hint       what the ghost's curve, the link and compute promise most from (shares.py), once they know the load
    no hint    deep in stall, so few that the rest of a step is theirs: what computes for the share of time that is
               left to compute now keeps the link's queue short
    back up    half the way at most to where stall drove us from, if that has helped; where each transfer waits long,
               however few run, it has not
    each leap  by LEAP at most, since what is far away was not seen; then the model has seen more
    turn back  half the way at most: a model that points now up, now down does not know better than the middle

A guess takes half a block of steps where a measurement takes many, so that a bad start costs little.
"""

from __future__ import annotations

import math

from hotset.daemon.advice.meter import Reading

HEAVY_STALL = 0.3
LEAP = 4.0
NEAR = 1.2
TRIES = 6
HELPED = 0.75
"""of the stall that was left behind"""
PATIENCE = 4
"""blocks to wait for a hint"""


class Guess:
    """Ask `next` after every half block of steps until it is `over`."""

    def __init__(self) -> None:
        self.over = False
        self._tries = TRIES
        self._left: Reading | None = None
        self._came: int | None = None
        """the place from which a hint was followed to this one"""
        self._waits = PATIENCE

    def next(self, seen: Reading, hint: int | None, least: int, most: int, fits: int = 1) -> int | None:
        """Where to go from what was `seen` last; None to stay, for another look or, once it is `over`, to measure.

        `fits`: sequences whose selections fit the hot set; without a hint nothing speaks for fewer.
        """
        here = seen.concurrency
        wanted = self._wanted(seen, hint, fits)
        if wanted is None:
            self._waits -= 1
            self.over = self._waits <= 0
            return None
        if self._came is not None and (wanted - here) * (here - self._came) < 0:
            wanted = round(math.sqrt(here * wanted))
        wanted = max(least, min(most, max(math.ceil(here / LEAP), min(math.floor(here * LEAP), wanted))))
        if wanted < here and seen.stall > HEAVY_STALL:
            self._left = seen
        self._came = here if hint is not None else None
        self._tries -= 1
        self.over = self._tries <= 0 or here / NEAR <= wanted <= here * NEAR
        return None if self.over else wanted

    def _wanted(self, seen: Reading, hint: int | None, fits: int) -> int | None:
        here, left = seen.concurrency, self._left
        if hint is None:
            down = max(fits, round(here * (1 + HEAVY_STALL) * (1 - seen.stall)))
            return down if seen.stall > HEAVY_STALL and down < here / NEAR else None
        if left is not None and hint > here and seen.stall < HELPED * left.stall:
            return min(hint, max(here, math.floor(math.sqrt(here * left.concurrency))))
        return hint
