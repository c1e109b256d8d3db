"""How many pages a plan may prefetch: what the link can carry beside demand, and what the reserve can take."""

from __future__ import annotations

import math
from dataclasses import dataclass

from hotset.protos.messages import StepStats

SMOOTHING = 0.9
STEP_SHARE = 0.3
TOLD_SHARE = 2.5e-3
"""of a step, for what the runtime does with a plan; being attached shall cost 1% at most, its messages included"""
LEAST_ROWS = 2048
FRESH_SHARE = 0.5
"""of a step; above STEP_SHARE, so that what is scored within its budget is never left to values made ahead"""
FRESH_SECONDS = 2e-3
LEARN_SECONDS = 8e-3
"""that learning a step may take for a plan to wait for it, however long the step: 0.99 of plans take no longer"""


@dataclass
class MovementBudget:
    """The link's rate is given (`gbps`, 10^9 bytes a second) or measured from what demand misses waited for."""

    page_bytes: int
    gbps: float | None = None
    _bytes_per_us: float | None = None
    _window_us: float | None = None

    def observe(self, stats: StepStats) -> None:
        """Learn the link's rate and the step's length from one step, unless it compiled or captured something."""
        if stats.warming:
            return
        self._window_us = _smooth(self._window_us, stats.step_us)
        if stats.stall_us and stats.demand_pages:
            rate = stats.demand_pages * self.page_bytes / stats.stall_us
            self._bytes_per_us = _smooth(self._bytes_per_us, rate)

    @property
    def bytes_per_us(self) -> float | None:
        """The link's rate, None before it is known."""
        return self.gbps * 1e3 if self.gbps is not None else self._bytes_per_us

    def pages(self, stats: StepStats) -> int:
        """Pages that may move in the next step without delaying demand: at most half of the reserve."""
        room = stats.reserve // 2
        rate = self.bytes_per_us
        if rate is None or self._window_us is None:
            return room
        free_bytes = rate * self._window_us - stats.demand_pages * self.page_bytes
        return max(0, min(room, int(free_bytes // self.page_bytes)))

    def least(self, flight_us: float) -> int:
        """Pages that a prefetch must bring at least to save more waiting than the `flight_us` that it costs itself."""
        rate = self.bytes_per_us
        return 1 if rate is None else max(1, math.ceil(rate * flight_us / self.page_bytes))


@dataclass
class ScoringBudget:
    """How many pages to score in one plan, so that it arrives well within a step; `most` at any rate."""

    most: int
    _seconds_per_row: float | None = None
    _told_us: float = 0.0
    """that the runtime takes for an entry of a plan"""
    _entries: int | None = None

    def observe(self, rows: int, seconds: float) -> None:
        """A plan that scored `rows` pages took `seconds`."""
        if rows:
            self._seconds_per_row = _smooth(self._seconds_per_row, seconds / rows)

    def told(self, stats: StepStats) -> None:
        """The runtime says what it has done with plans, and what that took of its step."""
        entries = stats.entries_applied + sum(stats.entries_rejected.values())
        new, self._entries = entries - (entries if self._entries is None else self._entries), entries
        if new > 0 and not stats.warming:
            self._told_us = _smooth(self._told_us or None, stats.plan_us / new)

    def fits(self, rows: int, seconds: float, stats: StepStats) -> bool:
        """Whether a plan may wait until a step is learned, which takes `seconds`, and `rows` pages are scored."""
        allowed = max(FRESH_SECONDS, FRESH_SHARE * stats.step_us * 1e-6)
        return seconds <= LEARN_SECONDS and seconds + rows * (self._seconds_per_row or 0.0) <= allowed

    def reset(self) -> None:
        """Another scorer has another speed."""
        self._seconds_per_row = None

    def rows(self, stats: StepStats) -> int:
        """Pages to score after a step that took `stats.step_us`; few until the scorer's speed is known."""
        if self._seconds_per_row is None:
            return min(self.most, LEAST_ROWS)
        # Planning takes no time on a simulated clock.
        fit = STEP_SHARE * stats.step_us * 1e-6 / self._seconds_per_row if self._seconds_per_row else math.inf
        bear = TOLD_SHARE * stats.step_us / self._told_us if self._told_us else math.inf
        return int(max(min(LEAST_ROWS, self.most), min(self.most, fit, bear)))


def _smooth(old: float | None, new: float) -> float:
    return new if old is None else SMOOTHING * old + (1 - SMOOTHING) * new
