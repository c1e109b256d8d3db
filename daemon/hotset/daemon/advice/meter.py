"""Goodput, measured in blocks of steps, so that it comes with an error."""

from __future__ import annotations

import math
from collections import deque
from typing import NamedTuple

import numpy as np

OUTLIER = 3.0


class Load(NamedTuple):
    """What one step says about load."""

    running: int
    """sequences that ran, one token each"""
    more: int
    """sequences that could run as well: paused ones and waiting requests"""
    step_us: int
    stall_us: int


class Reading(NamedTuple):
    """Goodput at a concurrency."""

    concurrency: int
    goodput: float
    """tokens a second"""
    error: float
    """standard error of goodput, relative"""
    blocks: int
    stall: float
    """share of the time that attention waited for movement"""


class Meter:
    """The last `most` blocks of `block` steps each."""

    def __init__(self, block: int, most: int) -> None:
        self._block = block
        self._costs: deque[float] = deque(maxlen=most)
        self._running: deque[float] = deque(maxlen=most)
        self._stalls: deque[float] = deque(maxlen=most)
        self._steps = self._tokens = self._us = self._stall_us = 0

    def restart(self) -> None:
        """Forget everything: what is measured has changed."""
        self._costs.clear()
        self._running.clear()
        self._stalls.clear()
        self._steps = self._tokens = self._us = self._stall_us = 0

    def observe(self, load: Load) -> bool:
        """Count one step; True if it completes a block."""
        self._steps += 1
        self._tokens += load.running
        self._us += load.step_us
        self._stall_us += load.stall_us
        if self._steps < self._block or not self._tokens:
            return False
        self._costs.append(self._us / self._tokens)
        self._running.append(self._tokens / self._steps)
        self._stalls.append(self._stall_us / self._us)
        self._steps = self._tokens = self._us = self._stall_us = 0
        return True

    def last(self) -> Reading:
        """What the last block says, after at least one."""
        return Reading(max(1, round(self._running[-1])), 1e6 / max(self._costs[-1], 1e-9), 0.0, 1, self._stalls[-1])

    def reading(self) -> Reading | None:
        """What the blocks say, None before the second. A hiccup counts as OUTLIER median blocks at most."""
        if len(self._costs) < 2:
            return None
        costs = np.array(self._costs)
        costs = np.minimum(costs, OUTLIER * np.median(costs))
        mean = max(float(costs.mean()), 1e-9)
        error = float(costs.std(ddof=1)) / math.sqrt(len(costs)) / mean
        running = max(1, round(float(np.mean(self._running))))
        return Reading(running, 1e6 / mean, error, len(costs), float(np.mean(self._stalls)))


class Trial:
    """What a trial has cost so far: `lost`, in steps at the best; what it gains for a while pays no later loss."""

    def __init__(self) -> None:
        self.lost = 0.0
        self._steps = self._tokens = self._us = self._stall_us = 0

    def observe(self, load: Load, best: Reading) -> None:
        """One step of it."""
        self._steps += 1
        self._tokens += load.running
        self._us += load.step_us
        self._stall_us += load.stall_us
        lack = load.step_us * best.goodput / 1e6 - load.running
        self.lost = max(0.0, self.lost + lack / best.concurrency)

    def reading(self) -> Reading:
        """All of it, after at least one step."""
        running = max(1, round(self._tokens / self._steps))
        return Reading(running, 1e6 * self._tokens / self._us, 0.0, 1, self._stall_us / self._us)
