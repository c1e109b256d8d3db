"""How much memory should be hot set: what every pool size would cost in stall, and what else the memory could do.

    curve     misses of a running sequence by its share of slots, of an LRU pool (ghost.py), times how the policy in
              force compares with one, and what warm-ups of new sequences miss
    stall     a straight line through what steps with more and fewer misses stalled lately: so much a page, and so much
              for each layer that misses, however little (before the first miss: page bytes / link rate)
    goodput   sequences / (compute(sequences) + stall), with the slots that so many sequences leave
    knee      the fewest slots with which a step gets longer by `knee` of it at most

Sequences are taken to be alike: c of them in s slots miss c * m(s / c) pages a step.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hotset.daemon.advice.curve import BINS, EDGES, MissCurve
from hotset.daemon.advice.ghost import Ghost
from hotset.daemon.advice.meter import Load
from hotset.daemon.advice.node import Offer
from hotset.daemon.advice.promise import Promise
from hotset.protos.messages import Capacity, Geometry

Float64 = npt.NDArray[np.float64]

LEAST_FACTOR, MOST_FACTOR = 0.2, 3.0
ROOM = 1.25
"""Slots for each page that a lane selects, with which sequences are taken to fit before anything is known of reuse"""
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
    selected: int
    """pages that a sequence selects in a step"""

    @classmethod
    def of(cls, geometry: Geometry, capacity: Capacity) -> Pool:
        """As the runtime says in its hello."""
        least = max(1, min(geometry.slots, capacity.least_slots or geometry.kv_heads * geometry.selected))
        selected = geometry.lanes * geometry.selected
        return cls(geometry.slots, least, capacity.hbm_bytes, geometry.page_bytes, capacity.sequence_bytes, selected)

    def fits(self, slots: int = 0) -> int:
        """Sequences whose selections of a step have room, and some more, in a hot set of so many slots; at least one.

        0: as many as the hot set can have.
        """
        fits = (slots or self.slots) / (ROOM * self.selected)
        if self.budget:
            fits = min(fits, self.budget / (self.sequence_bytes + ROOM * self.selected * self.page_bytes))
        return max(1, int(fits))

    def hot(self, sequences: Float64, budget: float | None = None) -> Float64:
        """Slots that so many running sequences leave to the hot set, at least one."""
        bytes_ = self.budget if budget is None else budget
        left = (bytes_ - sequences * self.sequence_bytes) / self.page_bytes if self.budget else sequences * np.inf
        hot: Float64 = np.clip(np.floor(left), 1.0, self.slots)
        return hot


class Line:
    """y = fixed + x * each, fitted to what was seen, newer steps more; both are at least 0."""

    def __init__(self, keep: float) -> None:
        self._keep = keep
        self._sums: Float64 = np.zeros(5)

    def observe(self, x: float, y: float) -> None:
        """One step."""
        self._sums = self._sums * self._keep + (1.0, x, x * x, y, x * y)

    @property
    def means(self) -> tuple[float, float]:
        """Of x and y; 0 before the first step."""
        _, x, _, y, _ = (self._sums / max(self._sums[0], 1e-9)).tolist()
        return x, y

    def each(self, guess: float) -> float:
        """The slope; `guess` while x was about the same in all steps."""
        _, x, xx, y, xy = (self._sums / max(self._sums[0], 1e-9)).tolist()
        variance = xx - x * x
        slope = (xy - x * y) / variance if variance > 0.01 * x * x else guess
        return float(np.clip(slope, 0.0, y / x)) if x > 0 else guess


class ComputeModel(Line):
    """Microseconds that a step of c sequences computes."""

    def at(self, sequences: Float64) -> Float64:
        """Expected microseconds; 0 before the first step."""
        middle, mean = self.means
        each = self.each((1 - FIXED_SHARE) * mean / max(middle, 1e-9))
        found: Float64 = np.maximum(0.1 * mean, mean + each * (sequences - middle))
        return found


class StallModel(Line):
    """Microseconds that a step with so many misses stalls."""

    def __init__(self, keep: float, layers: int, page_us: float) -> None:
        """`page_us`: what a page takes on the link if that is known, else 0."""
        super().__init__(keep)
        self._layers, self._given_us = layers, page_us

    @property
    def miss_us(self) -> float:
        """What each miss adds."""
        misses, stall = self.means
        return self.each(self._given_us or stall / max(misses, 1e-9)) if misses else self._given_us

    def at(self, misses: Float64) -> Float64:
        """Expected microseconds: besides the pages, each layer that misses at all waits for its batch to begin."""
        middle, mean = self.means
        batch_us = (mean - self.miss_us * middle) / max(float(self._missing(np.array(middle))), 1e-9)
        found: Float64 = self.miss_us * misses + max(0.0, batch_us) * self._missing(misses)
        return found

    def _missing(self, misses: Float64) -> Float64:
        """Layers that miss, where each miss is of any layer."""
        layers: Float64 = self._layers * -np.expm1(-misses / self._layers)
        return layers


@dataclass(frozen=True)
class Outlook:
    """What to expect of other concurrencies and pool sizes, as of one step. Arrays may have any shape."""

    curve: MissCurve
    factor: float
    """misses of the policy in force over those of the curve"""
    warm: float
    """misses of warm-ups, a step and sequence"""
    link: StallModel
    compute: ComputeModel

    def stall_us(self, sequences: Float64, slots: Float64) -> Float64:
        """Stall of a step."""
        misses = self.factor * self.curve.of_pool(slots, sequences) + self.warm * sequences
        return self.link.at(misses)

    def goodput(self, sequences: Float64, slots: Float64) -> Float64:
        """Tokens a second."""
        step_us = self.compute.at(sequences) + self.stall_us(sequences, slots)
        rate: Float64 = 1e6 * sequences / np.maximum(step_us, 1e-3)
        return rate

    def promise(self, pool: Pool, least: int, most: int, budget: float | None = None) -> Promise:
        """Goodput of concurrencies from least to most, with the slots that they leave of the memory."""
        counts = np.unique(np.round(np.geomspace(max(1, least), max(1, least, most), 4 * POINTS)))
        return Promise(counts, self.goodput(counts, pool.hot(counts, budget)))

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
        promised = np.array([self.promise(pool, 1, most, size).rates.max() for size in sizes])
        # A larger pool can do all that a smaller one can.
        promised = np.maximum.accumulate(promised)
        return Offer(sizes, promised[-1] - promised)


class Expectation:
    """Keeps what an outlook is made of."""

    def __init__(self, geometry: Geometry, link_gbps: float | None, half_life: float) -> None:
        self._keep = 0.5 ** (1 / half_life)
        self._compute = ComputeModel(self._keep)
        page_us = geometry.page_bytes / (link_gbps * 1e3) if link_gbps else 0.0
        self._link = StallModel(self._keep, geometry.layers, page_us)
        self._running = self._weight = 0.0
        self._shares: Float64 = np.zeros(BINS + 1)
        """Steps of sequences beyond their warm-up, by the slots that each had to itself."""

    @property
    def running(self) -> float:
        """Sequences that ran lately, on average."""
        return self._running / max(self._weight, 1e-9)

    def observe(self, load: Load, slots: float, demand_pages: int, steady: int) -> None:
        """One step with a hot set of `slots`, and with `steady` sequences beyond their warm-up."""
        keep = self._keep
        self._compute.observe(load.running, max(0, load.step_us - load.stall_us))
        self._weight = keep * self._weight + 1.0
        self._link.observe(demand_pages, load.stall_us)
        self._running = keep * self._running + load.running
        self._shares *= keep
        self._shares[np.searchsorted(EDGES, slots / load.running)] += steady

    def outlook(self, ghost: Ghost) -> Outlook:
        """As of now."""
        curve, factor = ghost.curve(), 1.0
        expected = float(self._shares @ curve.misses(EDGES))
        if expected > 0:
            factor = float(np.clip(ghost.missed * self._shares.sum() / expected, LEAST_FACTOR, MOST_FACTOR))
        return Outlook(curve, factor, ghost.warmed, self._link, self._compute)
