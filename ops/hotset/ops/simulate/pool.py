"""The simulated pool: which pages have a slot, by the rules of hotset.runtime.residency, and what is in flight."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass

import numpy as np

from hotset.ops.simulate import planned
from hotset.ops.simulate.slots import (
    FILLING,
    FREE,
    LIVE,
    LRU,
    MARGIN,
    PINNED,
    RESERVED,
    SCORE,
    SLOTS_IN,
    STEP,
    STEP_TICK,
    TICK,
    Bool,
    Float64,
    Int32,
    Int64,
    UInt8,
    make_slots,
    observe,
    place,
    rank,
    reserve_free,
    reserve_from,
    use,
)
from hotset.protos.errors import CapacityError, ConfigError
from hotset.protos.messages import Geometry, Plan

POLICIES = {"lru": LRU, "score-ema": SCORE, "margin-ema": MARGIN}


@dataclass(frozen=True)
class Rules:
    """Where the rules of a decode process are not those of replay; `REPLAY` makes both the same."""

    reserve: bool = True
    """Keep a reserve between watermarks; else every miss looks for the worst slot of the moment."""
    tails: bool = True
    """Pin the newest page of a sequence until it is full; else it is a page like any other."""
    by_lane: bool = False
    """Serve one lane at a time; else all lanes of a layer at once."""


REPLAY = Rules(reserve=False, tails=False, by_lane=True)


@dataclass(eq=False)
class Flight:
    """Prefetches that a plan began, or a step for one of its later layers; `left` pages have not moved yet."""

    pages: Int32
    slots: Int32
    generations: Int32
    left: float
    layer: int | None = None
    """that waits for it, if the step began it"""


class SimPool:
    """Slots, the reserve, tails and prefetches for `geometry`, with a built-in policy for what no plan values."""

    def __init__(self, geometry: Geometry, policy: str, rules: Rules | None = None, ticks_per_step: int = 0) -> None:
        """Raises ConfigError for an unknown policy."""
        if policy not in POLICIES:
            raise ConfigError(f"no built-in policy {policy!r}; choose one of {', '.join(POLICIES)}")
        self.geometry, self.lanes, self.rules = geometry, geometry.lanes, rules or Rules()
        self.s = make_slots(geometry.slots, geometry.groups, geometry.lanes)
        self.flights: list[Flight] = []
        self._policy = POLICIES[policy]
        self._ticks = ticks_per_step or geometry.layers
        self._in_flight: Bool = np.zeros(len(self.s.slot_of), np.bool_)
        self._queue: Int64 = np.empty(0, np.int64)
        self._at = 0
        self._in_step = False
        self.limit = geometry.slots
        self.wide = False
        """Whether prefetches inside steps take their victims from the reserve too, so that it must be larger."""
        self._watermarks()

    def count(self, state: int) -> int:
        """Slots in a state."""
        return int(self.s.counts[SLOTS_IN + state])

    @property
    def tick(self) -> int:
        """Calls of `resolve` so far."""
        return int(self.s.counts[TICK])

    @property
    def _step_tick(self) -> int:
        return int(self.s.counts[STEP_TICK])

    def _victims_since(self) -> tuple[int, int]:
        """What a step used is a last resort within the step, if earlier layers did; after it, whoever did."""
        return self._step_tick, self.tick if self._in_step else self.tick + 1

    # A step: begin, resolve layer by layer, end.

    def begin_step(self) -> None:
        """A new step's uses start to count."""
        self.s.counts[STEP_TICK] = self.tick + 1
        self.s.counts[STEP] += 1
        self._in_step = True
        self._forget_order()

    def resolve(self, physical: Int32, selected: Bool, flags: UInt8, first: int, end: int) -> int:
        """Use the selected pages of lanes first..end-1, load what missed; returns how many pages that was.

        Arrays are [sequences, lanes, n]; `flags` take HIT and PREFETCHED. Raises CapacityError for a small pool.
        """
        self.s.counts[TICK] += 1
        missed = use(self.s, physical, selected, flags, first, end)
        self._place(missed, LIVE)
        return len(missed)

    def end_step(self, physical: Int32, scores: UInt8, selected: Bool) -> None:
        """Fold the step's candidates into the averages, and refill the reserve from the worst values."""
        if self._policy != LRU:
            observe(self.s, physical, scores, selected, self._policy == MARGIN)
        self._forget_order()
        self._in_step = False
        low, high = (self.high + self.high // 2, 2 * self.high) if self.wide else (self.low, self.high)
        if self.rules.reserve and self.count(RESERVED) < low:
            self._reserve(high - self.count(RESERVED), self._step_tick)

    # Tails and groups.

    def open_tail(self, group: int) -> None:
        """Pin a slot for every lane of `group`. Raises CapacityError if the pool cannot give them."""
        self._place(np.arange(group * self.lanes, (group + 1) * self.lanes, dtype=np.int32), PINNED)

    def seal(self, group: int, *, resident: bool) -> None:
        """A group is full: from now on its pages can be loaded, and evicted if they are `resident` (a tail)."""
        self.s.stored[group] = True
        if resident:
            planned.set_group_state(self.s, self.lanes, group, LIVE)

    def free(self, groups: list[int]) -> None:
        """Drop the pages of freed groups; older plans for them are stale from here on."""
        planned.release(self.s, self.lanes, np.array(groups, np.int32))
        self._forget_order()

    def warm(self, pages: Int32) -> int:
        """Fill free slots with `pages` ([m] int32, best first), keeping the reserve's share; returns how many."""
        room = max(0, self.count(FREE) - self.high)
        return planned.warm(self.s, pages, room)

    def resize(self, slots: int) -> None:
        """Let the hot set have `slots` slots of the geometry's. Raises CapacityError if too many are pinned."""
        change = slots - self.limit
        if change < 0:
            short = -change - planned.take_off(self.s, -change)
            if short and self._reserve(short, *self._victims_since()) < short:
                raise CapacityError(f"a hot set of {slots} slots cannot hold what is pinned and in flight")
            planned.take_off(self.s, short)
        elif change:
            planned.put_on(self.s, change)
        self.limit = slots
        self._watermarks()
        self._forget_order()

    # Plans and prefetch.

    def apply_plan(self, plan: Plan, *, epoch_tick: int, until_tick: int) -> tuple[int, Counter[str]]:
        """Write a plan's values and begin its prefetches; returns entries applied, and those rejected by reason."""
        values = planned.apply_values(
            self.s, self.lanes, plan.pages, plan.generations, plan.values, epoch_tick, until_tick
        )
        pages, slots, fetched = planned.begin_prefetch(
            self.s, self.lanes, plan.prefetch, plan.prefetch_generations, self._in_flight, self.low
        )
        self._fly(pages, slots)
        self._forget_order()
        rejected = Counter(dict(zip(planned.VALUE_REASONS, values[1:].tolist(), strict=True)))
        rejected.update(dict(zip(planned.PREFETCH_REASONS, fetched[1:].tolist(), strict=True)))
        return int(values[0] + fetched[0]), +rejected

    def spare(self, slots: int) -> int:
        """Slots that prefetches may hold while a layer needs `slots` at once."""
        return self.limit - self.count(PINNED) - self.count(FILLING) - slots

    def begin_ahead(self, pages: Int32, layer: int) -> Int32:
        """A step begins to prefetch `pages` ([m], best first) for its `layer`; returns those that found room."""
        generations = self.s.generation[pages // self.lanes].astype(np.uint32)
        begun, slots, _ = planned.begin_prefetch(self.s, self.lanes, pages, generations, self._in_flight, self.low)
        self._fly(begun, slots, layer)
        return begun

    def land(self, layer: int) -> int:
        """The step's prefetches for `layer` become visible; returns how many of their pages have yet to move."""
        late = 0.0
        for flight in [f for f in self.flights if f.layer == layer]:
            late += flight.left
            self._end(flight)
        return math.ceil(late - 1e-9)

    def move(self, pages: float) -> None:
        """The link carried so many pages of prefetches: those of the nearest layer first, then plans', oldest first."""
        for flight in self.flights:
            moved = min(pages, flight.left)
            flight.left -= moved
            pages -= moved

    def commit(self) -> int:
        """At a safe point: prefetches that have arrived become visible. Returns how many pages were in vain."""
        return sum(self._end(f) for f in [f for f in self.flights if f.layer is None and f.left <= 1e-9])

    def drain_changes(self) -> tuple[Int32, Int32]:
        """Pages that gained and that lost their slot since the last call; each stands in one of them."""
        return planned.drain(self.s)

    def resident_pages(self) -> Int32:
        """All pages that have a slot, ascending."""
        return np.flatnonzero(self.s.slot_of >= 0).astype(np.int32)

    def _place(self, pages: Int32, state: int) -> None:
        short = len(pages) - self.count(RESERVED)
        if short > 0 and self._reserve(short, *self._victims_since()) < short:
            self._wait_for_flights(short)
        place(self.s, pages, state)

    def _wait_for_flights(self, short: int) -> None:
        """The pool ran dry: what is in flight must arrive first, as in the runtime."""
        for flight in self.flights:
            # A step's own are waited for in their layer's turn.
            flight.left = flight.left if flight.layer is not None else 0.0
        self.commit()
        short -= self.count(RESERVED)
        if short > 0 and self._reserve(short, *self._victims_since()) < short:
            raise CapacityError(
                f"{short} slots are missing of {self.limit}; the pool must hold the tails and one selection per lane "
                "of a layer: give more slots, or run fewer sequences"
            )

    def _fly(self, pages: Int32, slots: Int32, layer: int | None = None) -> None:
        if len(pages):
            generations = self.s.generation[pages // self.lanes]
            self.flights.append(Flight(pages, slots, generations, float(len(pages)), layer))
            self.flights.sort(key=lambda f: (f.layer is None, f.layer or 0))

    def _end(self, flight: Flight) -> int:
        """A flight's pages become visible; returns how many were in vain."""
        self.flights.remove(flight)
        arrived = (flight.pages, flight.slots, flight.generations)
        self._forget_order()
        return len(flight.pages) - planned.commit_prefetch(self.s, self.lanes, *arrived, self._in_flight)

    def _watermarks(self) -> None:
        self.low = max(1, self.limit // 32) if self.rules.reserve else 0
        self.high = max(1, self.limit // 16) if self.rules.reserve else 0

    def _forget_order(self) -> None:
        """Values have changed: victims must be ranked anew."""
        self._queue, self._at = np.empty(0, np.int64), 0

    def _reserve(self, count: int, *used_since: int) -> int:
        """Reserve `count` more slots, empty ones first, then the worst of those not used since the first tick given.

        If these are not enough, of those not used since the next one, and so on. Returns how many.
        """
        done = reserve_free(self.s, count)
        for since in used_since:
            while done < count:
                if self._at >= len(self._queue):
                    self._queue, self._at = self._worst(count - done, since), 0
                    if not len(self._queue):
                        break
                more, self._at = reserve_from(self.s, self._queue, self._at, count - done, since)
                done += more
            if done >= count:
                break
            self._forget_order()
        return done

    def _worst(self, count: int, used_since: int) -> Int64:
        """Slots of the worst values, worst first, equals by page; more than asked, since a step asks again."""
        values = rank(self.s, self._policy, used_since, self._ticks)
        return _largest(values, self.s.page_of, max(count, self.limit // 32))


def _largest(values: Float64, pages: Int32, count: int) -> Int64:
    """Indices of the `count` largest finite `values`, largest first, equals by their page."""
    there = np.flatnonzero(values > -np.inf)
    if len(there) > count:
        found = values[there]
        least = np.partition(found, len(found) - count)[len(found) - count]
        there = there[found >= least]
    return there[np.lexsort((pages[there], -values[there]))][:count]
