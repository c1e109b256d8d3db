"""How much memory should be hot set: what every pool size would cost in stall, and what else the memory could do.

    curve     misses of a running sequence by its share of slots, of an LRU pool (ghost.py), times how the policy in
              force compares with one, and what warm-ups of new sequences miss
    stall     misses * microseconds of stall that a miss has cost lately (before the first: page bytes / link rate)
    goodput   sequences / (compute(sequences) + stall), with the slots that so many sequences leave
    knee      the fewest slots with which a step gets longer by `knee` of it at most

Sequences are taken to be alike: c of them in s slots miss c * m(s / c) pages a step.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hotset.daemon.advice.curve import MissCurve
from hotset.daemon.advice.ghost import Ghost
from hotset.daemon.advice.meter import Load
from hotset.daemon.advice.node import Offer
from hotset.protos.messages import Capacity, Geometry

Float64 = npt.NDArray[np.float64]

LEAST_FACTOR, MOST_FACTOR = 0.2, 3.0
FIXED_SHARE = 0.5
"""of a step's compute, until several batch sizes were seen"""
POINTS = 48
"""of a curve over slots or bytes"""


@dataclass(frozen=True)
class Pool:
    """What is known of a session's memory; `budget` is in bytes, 0 if unknown."""

    slots: int
    least: int
    budget: int
    page_bytes: int
    sequence_bytes: int

    @classmethod
    def of(cls, geometry: Geometry, capacity: Capacity) -> Pool:
        """As the runtime says in its hello."""
        least = max(1, min(geometry.slots, capacity.least_slots or geometry.kv_heads * geometry.selected))
        return cls(geometry.slots, least, capacity.hbm_bytes, geometry.page_bytes, capacity.sequence_bytes)

    def hot(self, sequences: Float64, budget: float | None = None) -> Float64:
        """Slots that so many running sequences leave to the hot set, at least one."""
        bytes_ = self.budget if budget is None else budget
        left = (bytes_ - sequences * self.sequence_bytes) / self.page_bytes if self.budget else sequences * np.inf
        hot: Float64 = np.clip(np.floor(left), 1.0, self.slots)
        return hot


class ComputeModel:
    """Microseconds that a step of c sequences computes: fixed + c * each, fitted to what was seen, newer steps more."""

    def __init__(self, keep: float) -> None:
        self._keep = keep
        self._sums: Float64 = np.zeros(5)

    def observe(self, running: int, compute_us: float) -> None:
        """One step."""
        self._sums = self._sums * self._keep + (1.0, running, running * running, compute_us, running * compute_us)

    def at(self, sequences: Float64) -> Float64:
        """Expected microseconds; 0 before the first step."""
        weight, c, cc, us, cus = self._sums.tolist()
        if weight == 0.0:
            return np.zeros_like(sequences)
        mean, middle = us / weight, c / weight
        variance = cc / weight - middle * middle
        each = (1 - FIXED_SHARE) * mean / middle
        if variance > 0.01 * middle * middle:
            each = float(np.clip((cus / weight - mean * middle) / variance, 0.0, mean / middle))
        found: Float64 = np.maximum(0.1 * mean, mean + each * (sequences - middle))
        return found


@dataclass(frozen=True)
class Outlook:
    """What to expect of other concurrencies and pool sizes, as of one step. Arrays may have any shape."""

    curve: MissCurve
    factor: float
    """misses of the policy in force over those of the curve"""
    warm: float
    """misses of warm-ups, a step and sequence"""
    miss_us: float
    """stall of a miss"""
    compute: ComputeModel

    def stall_us(self, sequences: Float64, slots: Float64) -> Float64:
        """Stall of a step."""
        misses = self.factor * self.curve.of_pool(slots, sequences) + self.warm * sequences
        stall: Float64 = self.miss_us * misses
        return stall

    def goodput(self, sequences: Float64, slots: Float64) -> Float64:
        """Tokens a second."""
        step_us = self.compute.at(sequences) + self.stall_us(sequences, slots)
        rate: Float64 = 1e6 * sequences / np.maximum(step_us, 1e-3)
        return rate

    def best(self, pool: Pool, least: int, most: int, budget: float | None = None) -> tuple[int, float]:
        """The concurrency from least to most that promises the highest goodput, and that goodput."""
        counts = np.unique(np.round(np.geomspace(max(1, least), max(1, least, most), 4 * POINTS)))
        promised = self.goodput(counts, pool.hot(counts, budget))
        return int(counts[np.argmax(promised)]), float(promised.max())

    def knee(self, pool: Pool, sequences: int, share: float) -> int:
        """The fewest slots that make a step longer by `share` of it at most."""
        sizes, count = np.geomspace(pool.least, pool.slots, POINTS), np.array(float(max(1, sequences)))
        stall = self.stall_us(count, sizes)
        allowed = stall[-1] + share * (self.compute.at(count) + stall[-1])
        return int(np.ceil(sizes[np.argmax(stall <= allowed)]))

    def offer(self, pool: Pool, most: int) -> Offer:
        """What the session would lose with less memory than it has, each size with its best concurrency."""
        least = pool.least * pool.page_bytes + pool.sequence_bytes
        sizes = np.geomspace(least, max(least, pool.budget), POINTS)
        promised = np.array([self.best(pool, 1, most, size)[1] for size in sizes])
        # A larger pool can do all that a smaller one can.
        promised = np.maximum.accumulate(promised)
        return Offer(sizes, promised[-1] - promised)


class Expectation:
    """Keeps what an outlook is made of."""

    def __init__(self, page_bytes: int, link_gbps: float | None, half_life: float) -> None:
        self._keep = 0.5 ** (1 / half_life)
        self._compute = ComputeModel(self._keep)
        self._given_us = page_bytes / (link_gbps * 1e3) if link_gbps else 0.0
        self._stall = self._demand = self._running = self._slots = self._weight = 0.0

    @property
    def running(self) -> float:
        """Sequences that ran lately, on average."""
        return self._running / max(self._weight, 1e-9)

    def observe(self, load: Load, slots: float, demand_pages: int) -> None:
        """One step with a hot set of `slots`."""
        keep = self._keep
        self._compute.observe(load.running, max(0, load.step_us - load.stall_us))
        self._weight = keep * self._weight + 1.0
        self._stall = keep * self._stall + load.stall_us
        self._demand = keep * self._demand + demand_pages
        self._running = keep * self._running + load.running
        self._slots = keep * self._slots + slots

    def outlook(self, ghost: Ghost) -> Outlook:
        """As of now."""
        curve, factor = ghost.curve(), 1.0
        if self._running:
            expected = float(curve.misses(np.array(self._slots / self._running)))
            if expected > 0:
                factor = float(np.clip(ghost.missed / expected, LEAST_FACTOR, MOST_FACTOR))
        miss_us = self._stall / self._demand if self._demand >= 1 else self._given_us
        return Outlook(curve, factor, ghost.warmed, miss_us, self._compute)
