"""Where to look next for the best concurrency: a bracketed climb on a log scale.

    best      the reading with the highest goodput
    below     the nearest concurrency below it that was worse, above likewise
    next      what the model thinks best, if it lies in the bracket;
              else outwards, in steps that grow, on a side without a bracket, to what the model likes best on the way;
              else the middle of the side that may still hide a gain worth having

A reading is as good as its error is small: what it says of the best, and what the model promises, count by how far each
may be off. On a noisy machine two neighbours cannot be told apart by measuring them for some dozens of steps alone.

Goodput over concurrency rises about as a concave function until movement dominates, then falls, perhaps off a
cliff. What a gap can hide is bounded by the slope on the other side of the best. Kiefer, "Sequential minimax
search for a maximum" (1953), for the bracket; the bound by slope is ours.
"""

from __future__ import annotations

import math

from hotset.daemon.advice.meter import Reading
from hotset.daemon.advice.promise import Promise

FIRST_GROWTH = 2.0
AGAIN_GROWTH = 1.15
HINTED_GROWTH = 1.15
LEAP = 1.5
"""by a hint, at most: where to begin was guessed before (guess.py)"""
NEAR = 1.1
DOUBT = 0.3
"""how far a promised gain may be off, as a share of the relative change in concurrency"""


def compare(reading: Reading, best: Reading, promise: Promise | None) -> tuple[float, float]:
    """How much better than the best a reading is, and how far that may be off, both as logarithms.

    Beside what the model promises it is the mean of both by their precision, as of two measurements of one thing.
    """
    error, gain = math.hypot(reading.error, best.error), math.log(reading.goodput / best.goodput)
    if promise is None or reading.concurrency == best.concurrency:
        return gain, error
    doubt = DOUBT * abs(math.log(reading.concurrency / best.concurrency))
    promised = math.log(promise.at(reading.concurrency) / promise.at(best.concurrency))
    off = math.hypot(error, doubt)
    return gain + (promised - gain) * (error / off) ** 2, error * doubt / off


class Search:
    """`tell` it readings, `ask` it for the next concurrency to try."""

    def __init__(self, tolerance: float) -> None:
        self.best: Reading | None = None
        self.below: Reading | None = None
        self.above: Reading | None = None
        self._tolerance = tolerance
        self._growth = FIRST_GROWTH
        self._hints = 1

    def restart(self, best: Reading) -> None:
        """The world has changed: only `best`, measured just now, still counts."""
        self.best, self.below, self.above = best, None, None
        self._growth, self._hints = FIRST_GROWTH, 1

    def look_again(self) -> None:
        """Doubt the bracket, and try both sides again in small steps."""
        self._growth, self._hints = AGAIN_GROWTH, 0
        self.above = self.below = None

    def tell(self, reading: Reading, promise: Promise | None = None) -> bool:
        """Take in a reading, beside what the model promises; True if it is the best now."""
        best = self.best
        if best is None or reading.concurrency == best.concurrency:
            self.best = reading
            self._doubt()
            return True
        upwards = reading.concurrency > best.concurrency
        if self._better(reading, best, promise):
            self._bracket(best, above=not upwards)
            self.best = reading
            self._growth = min(FIRST_GROWTH, self._growth**2)
            self._drop_crossed(reading.concurrency)
            return True
        self._bracket(reading, above=upwards)
        return False

    def ask(self, least: int, most: int, promise: Promise | None, *, down_first: bool = False) -> int | None:
        """The next concurrency to try from `least` to `most`, None if the best will do."""
        best = self.best
        if best is None:
            return None
        here = best.concurrency
        low = max(least, self.below.concurrency + 1 if self.below else least)
        high = min(most, self.above.concurrency - 1 if self.above else most)
        if promise is not None and self._hints > 0:
            self._hints -= 1
            self._growth = min(self._growth, HINTED_GROWTH)
            leap = max(math.ceil(here / LEAP), min(round(here * LEAP), promise.best))
            wanted = max(low, min(high, leap))
            if wanted != here and not here / NEAR <= wanted <= here * NEAR:
                return wanted
        sides = [self._downwards(here, low, promise), self._upwards(here, high, promise)]
        # On a side that was never tried first, then where more may be gained.
        sides.sort(key=lambda side: (-side[0], side[1] > here if down_first else side[1] < here))
        gain, wanted = sides[0]
        return wanted if gain > self._tolerance and wanted != here else None

    def _better(self, reading: Reading, best: Reading, promise: Promise | None) -> bool:
        gain, error = compare(reading, best, promise)
        return gain > math.log1p(self._tolerance if promise is not None else max(self._tolerance, error))

    def _upwards(self, here: int, high: int, promise: Promise | None) -> tuple[float, int]:
        if high <= here:
            return 0.0, here
        if self.above is None:
            near, far = (min(high, max(here + 1, round(here * growth))) for growth in (AGAIN_GROWTH, self._growth))
            return math.inf, promise.best_within(near, far) if promise else far
        return self._hidden(here, high, self.below), _middle(here, self.above.concurrency)

    def _downwards(self, here: int, low: int, promise: Promise | None) -> tuple[float, int]:
        if low >= here:
            return 0.0, here
        if self.below is None:
            near, far = (max(low, min(here - 1, round(here / growth))) for growth in (AGAIN_GROWTH, self._growth))
            return math.inf, promise.best_within(far, near) if promise else far
        return self._hidden(here, low, self.above), _middle(self.below.concurrency, here)

    def _hidden(self, here: int, end: int, other: Reading | None) -> float:
        """Most relative gain between the best and `end`, going on as from `other`, across the best, to the best."""
        slope = 1.0
        if other is not None and self.best is not None:
            slope = abs(math.log(self.best.goodput / other.goodput) / math.log(here / other.concurrency))
        return float(max(end / here, here / end) ** min(1.0, slope) - 1)

    def _bracket(self, reading: Reading | None, *, above: bool) -> None:
        if above:
            self.above = reading
        else:
            self.below = reading

    def _doubt(self) -> None:
        """A neighbour that now looks better than the best was measured in other times."""
        for side in (self.below, self.above):
            if side is not None and self.best is not None and side.goodput > self.best.goodput * (1 + self._tolerance):
                self._bracket(None, above=side is self.above)

    def _drop_crossed(self, here: int) -> None:
        if self.above is not None and self.above.concurrency <= here:
            self.above = None
        if self.below is not None and self.below.concurrency >= here:
            self.below = None


def _middle(low: int, high: int) -> int:
    """The geometric mean, strictly between where there is room."""
    return max(low + 1, min(high - 1, round(math.sqrt(low * high))))
