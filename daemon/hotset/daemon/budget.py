"""How many pages a plan may prefetch: what the link can carry beside demand, and what the reserve can take."""

from __future__ import annotations

from dataclasses import dataclass

from hotset.protos.messages import StepStats

SMOOTHING = 0.9
STEP_SHARE = 0.3
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


@dataclass
class ScoringBudget:
    """How many pages to score in one plan, so that it arrives well within a step; `most` at any rate."""

    most: int
    _seconds_per_row: float | None = None

    def observe(self, rows: int, seconds: float) -> None:
        """A plan that scored `rows` pages took `seconds`."""
        if rows:
            self._seconds_per_row = _smooth(self._seconds_per_row, seconds / rows)

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
        if self._seconds_per_row == 0:
            # Planning takes no time on a simulated clock.
            return self.most
        fit = STEP_SHARE * stats.step_us * 1e-6 / self._seconds_per_row
        return max(min(LEAST_ROWS, self.most), min(self.most, int(fit)))


def _smooth(old: float | None, new: float) -> float:
    return new if old is None else SMOOTHING * old + (1 - SMOOTHING) * new
