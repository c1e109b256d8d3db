"""An engine without a model: plays a recorded trace over the wire as if it decoded, and obeys plans.

It joins through `ControlLink` like any decode process and needs no torch. Residency is real as far as the
wire can tell: a pool of slots, misses that load, victims by plan value or by age, prefetches, generations.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from hotset.predictor.trace import SequenceTrace
from hotset.protos.messages import (
    AccessFlag,
    Ack,
    Geometry,
    Plan,
    SequenceClose,
    SequenceOpen,
    Snapshot,
    Step,
    StepStats,
)
from hotset.protos.trace import TraceMeta
from hotset.runtime.link import ControlLink

Int32 = npt.NDArray[np.int32]
UInt8 = npt.NDArray[np.uint8]
Bool = npt.NDArray[np.bool_]
NEVER = -1


def repeat(sequences: Sequence[SequenceTrace], times: int) -> list[SequenceTrace]:
    """The same sequences `times` over, one after the other, each time under new numbers."""
    numbers = max(s.sequence for s in sequences) + 1
    span = max(int(s.epochs[-1]) for s in sequences) + 1
    return [
        replace(s, sequence=s.sequence + turn * numbers, epochs=s.epochs + turn * span)
        for turn in range(times)
        for s in sequences
    ]


def geometry_of(meta: TraceMeta, sequences: Sequence[SequenceTrace], ratio: float) -> Geometry:
    """The pool that `ratio` times a selection of every lane of all sequences that decode at once makes."""
    lanes = meta.layers * meta.kv_heads
    return Geometry(
        layers=meta.layers, kv_heads=meta.kv_heads, page_size=meta.page_size, selected=meta.selected,
        candidates=meta.candidates, page_bytes=meta.page_bytes,
        slots=max(1, round(ratio * meta.selected)) * lanes * _at_once(sequences),
        groups=sum(_pages(s, meta.page_size) for s in sequences),
    )  # fmt: skip


class Pool:
    """Which physical pages have a slot. `value` holds until epoch `until`; after it, age decides."""

    def __init__(self, geometry: Geometry) -> None:
        pages = geometry.groups * geometry.lanes
        self.slots = geometry.slots
        self.resident: Bool = np.zeros(pages, np.bool_)
        self.prefetched: Bool = np.zeros(pages, np.bool_)
        self.used: npt.NDArray[np.int64] = np.full(pages, NEVER, np.int64)
        self.value: npt.NDArray[np.float32] = np.zeros(pages, np.float32)
        self.until: npt.NDArray[np.int64] = np.full(pages, NEVER, np.int64)

    @property
    def free(self) -> int:
        """Slots that hold nothing."""
        return self.slots - int(np.count_nonzero(self.resident))

    def load(self, pages: Int32, epoch: int) -> Int32:
        """Make `pages` ([m], not resident) resident; returns the victims. Pages used at `epoch` stay."""
        short = len(pages) - self.free
        victims = self._victims(short, epoch) if short > 0 else np.empty(0, np.int32)
        self.resident[victims] = self.prefetched[victims] = False
        self.resident[pages] = True
        return victims

    def use(self, pages: Int32, epoch: int) -> None:
        """Mark pages as used; what a plan said of them before is void."""
        self.used[pages] = epoch
        self.until[pages] = NEVER
        self.prefetched[pages] = False

    def drop(self, first: int, end: int) -> Int32:
        """Empty the slots of a range of pages, whose sequence is over; returns those that had one."""
        freed = (first + np.flatnonzero(self.resident[first:end])).astype(np.int32)
        self.resident[freed] = self.prefetched[freed] = False
        return freed

    def victims(self, epoch: int) -> int:
        """How many resident pages were not used at `epoch` or later."""
        return int(np.count_nonzero(self.resident & (self.used < epoch)))

    def check_integrity(self) -> None:
        """Raise AssertionError if more pages are resident than there are slots."""
        assert self.free >= 0, "more pages are resident than there are slots"
        assert not bool((self.prefetched & ~self.resident).any()), "a prefetched page is not resident"

    def _victims(self, count: int, epoch: int) -> Int32:
        pages = np.flatnonzero(self.resident & (self.used < epoch))
        planned = self.until[pages] >= epoch
        # Age in the currency of plans: what was used n steps ago is expected back in n steps.
        badness = np.where(planned, self.value[pages], np.log2(epoch - self.used[pages] + 1))
        order = np.argsort(-badness, kind="stable")[:count]
        return pages[order].astype(np.int32)


@dataclass
class Played:
    """Cumulative counts; a page is one page of one lane."""

    steps: int = 0
    accesses: int = 0
    demand_misses: int = 0
    prefetched_hits: int = 0
    prefetched_pages: int = 0
    plans: int = 0
    entries: int = 0


class TracePlayer:
    """Publishes a trace's steps in the order of their epochs; `step` plays one epoch."""

    def __init__(
        self, meta: TraceMeta, sequences: Sequence[SequenceTrace], link: ControlLink, geometry: Geometry
    ) -> None:
        self.played = Played()
        self.pool = Pool(geometry)
        self.epoch = -1
        self._geometry = geometry
        self._link = link
        self._sequences = list(sequences)
        self._first_group = np.cumsum([0, *(_pages(s, meta.page_size) for s in sequences)]).astype(np.int32)
        self._groups = [_pages(s, meta.page_size, first=True) for s in sequences]
        self._open: list[int] = []
        self._started: float | None = None
        self._row = [0] * len(sequences)
        self._rejected: Counter[str] = Counter()
        self._moved: tuple[Int32, Int32] = (np.empty(0, np.int32), np.empty(0, np.int32))

    def step(self) -> bool:
        """Play the next epoch; False once the trace is over."""
        coming = {i: int(s.epochs[self._row[i]]) for i, s in enumerate(self._sequences) if self._row[i] < len(s.epochs)}
        if not coming:
            return False
        start, self.epoch = time.perf_counter(), min(coming.values())
        active = [i for i, epoch in coming.items() if epoch == self.epoch]
        for i in active:
            if i not in self._open:
                self._begin(i)
        if self._link.snapshot_wanted():
            self._link.publish(self._snapshot())
        if (plan := self._link.take_plan()) is not None:
            self._apply(plan)
        self._publish(active, start)
        for i in active:
            self._row[i] += 1
            if self._row[i] == len(self._sequences[i].epochs):
                self._end(i)
        return True

    def _begin(self, number: int) -> None:
        self._open.append(number)
        groups, sequence = self._table(number), self._sequences[number]
        self._link.publish(
            SequenceOpen(
                sequence=sequence.sequence, prompt_tokens=sequence.prompt_tokens, groups=groups,
                generations=np.zeros(len(groups), "<u4"),
            )
        )  # fmt: skip

    def _end(self, number: int) -> None:
        self._open.remove(number)
        first, lanes = int(self._first_group[number]), self._geometry.lanes
        freed = self.pool.drop(first * lanes, (first + self._groups[number]) * lanes)
        self._moved = (self._moved[0], np.concatenate([self._moved[1], freed]))
        sequence = self._sequences[number]
        tokens = int(sequence.lengths[-1])
        self._link.publish(SequenceClose(sequence=sequence.sequence, tokens=tokens, reason="played"))

    def _table(self, number: int) -> Int32:
        first = int(self._first_group[number])
        return np.arange(first, first + self._groups[number], dtype=np.int32)

    def _physical(self, number: int, pages: Int32) -> Int32:
        """Physical pages of logical `pages` [lanes, n]; padding stays -1."""
        lanes = self._geometry.lanes
        physical = (self._first_group[number] + pages) * lanes + np.arange(lanes, dtype=np.int32)[:, None]
        return np.where(pages >= 0, physical, -1).astype(np.int32)

    def _publish(self, active: list[int], start: float) -> None:
        rows = [self._row[i] for i in active]
        steps = [self._sequences[i] for i in active]
        pages = np.concatenate([s.pages[r] for s, r in zip(steps, rows, strict=True)])
        selected = np.concatenate([s.selected[r] for s, r in zip(steps, rows, strict=True)])
        physical = np.concatenate([self._physical(i, self._sequences[i].pages[self._row[i]]) for i in active])
        flags, missed, evicted = self._access(physical, selected)
        before, gone = self._moved
        new = self._new_groups(active)
        message = Step(
            epoch=self.epoch,
            sequences=[s.sequence for s in steps],
            stats=self._stats(len(missed), len(before), self._period(start)),
            lengths=np.array([s.lengths[r] for s, r in zip(steps, rows, strict=True)], "<i4"),
            sequence_steps=np.array([s.steps[r] for s, r in zip(steps, rows, strict=True)], "<i4"),
            candidates=pages,
            scores=np.concatenate([s.scores[r] for s, r in zip(steps, rows, strict=True)]),
            flags=flags,
            new_sequence=np.array([s for s, _ in new], "<i8"),
            new_group=np.array([g for _, g in new], "<i4"),
            new_generation=np.zeros(len(new), "<u4"),
            **self._changes(np.concatenate([before, missed]), np.concatenate([gone, evicted])),
        )
        self._moved = (np.empty(0, np.int32), np.empty(0, np.int32))
        self._link.publish(message)

    def _access(self, physical: Int32, selected: Bool) -> tuple[UInt8, Int32, Int32]:
        """Use the selected pages. Returns flags like `physical`, pages missed and pages pushed out."""
        asked = physical[selected]
        hit = self.pool.resident[asked]
        first = self.pool.prefetched[asked]
        flags = np.zeros(physical.shape, np.uint8)
        flags[selected] = AccessFlag.SELECTED | hit * AccessFlag.HIT | first * AccessFlag.PREFETCHED
        self.pool.use(asked, self.epoch)
        missed = asked[~hit]
        evicted = self.pool.load(missed, self.epoch)
        played = self.played
        played.steps += 1
        played.accesses += len(asked)
        played.demand_misses += len(missed)
        played.prefetched_hits += int(np.count_nonzero(first))
        return flags, missed, evicted

    def _new_groups(self, active: list[int]) -> list[tuple[int, int]]:
        new: list[tuple[int, int]] = []
        for i in active:
            sequence = self._sequences[i]
            need = -(-int(sequence.lengths[self._row[i]]) // self._geometry.page_size)
            first = int(self._first_group[i])
            new += [(sequence.sequence, first + page) for page in range(self._groups[i], need)]
            self._groups[i] = max(self._groups[i], need)
        return new

    def _changes(self, gained: Int32, lost: Int32) -> dict[str, Int32]:
        touched = np.unique(np.concatenate([gained, lost]))
        held = self.pool.resident[touched]
        return {"loaded": touched[held].astype("<i4"), "evicted": touched[~held].astype("<i4")}

    def _period(self, start: float) -> float:
        """Seconds since the step before began: a player that is paced waits between steps."""
        period, self._started = start - (self._started or start), start
        return period

    def _stats(self, missed: int, prefetched: int, seconds: float) -> StepStats:
        return StepStats(
            step_us=int(1e6 * seconds),
            demand_pages=missed,
            prefetch_pages=prefetched,
            moved_bytes=(missed + prefetched) * self._geometry.page_bytes,
            reserve=max(1, self.pool.slots // 16),
            free=self.pool.free,
            steps_dropped=self._link.counters.steps_dropped,
            plans_applied=self.played.plans,
            entries_applied=self.played.entries,
            entries_rejected=dict(self._rejected),
        )

    def _apply(self, plan: Plan) -> None:
        """Values first, then the best prefetches, up to a small share of the pool."""
        good, rejected = self._valid(plan.pages, plan.generations, plan.deadline, resident=True)
        pages = plan.pages[good]
        self.pool.value[pages] = plan.values[good]
        self.pool.until[pages] = plan.deadline
        fetch, refused = self._valid(plan.prefetch, plan.prefetch_generations, plan.deadline, resident=False)
        # What the last step used is not a victim of a guess.
        last = max(self.epoch - 1, 0)
        room = min(self.pool.free + self.pool.victims(last), max(1, self.pool.slots // 32))
        wanted = dict.fromkeys(plan.prefetch[fetch].tolist())
        fetched = np.array(list(wanted)[:room], "<i4")
        lost = self.pool.load(fetched, last)
        self.pool.prefetched[fetched] = True
        self._moved = (fetched, np.concatenate([self._moved[1], lost]))
        self.played.plans += 1
        self.played.entries += len(pages) + len(fetched)
        self.played.prefetched_pages += len(fetched)
        rejected.update(refused)
        self._rejected.update(rejected)
        applied = len(pages) + len(fetched)
        self._link.publish(Ack(of="plan", number=plan.number, accepted=True, applied=applied, rejected=dict(rejected)))

    def _valid(
        self, pages: Int32, generations: npt.NDArray[Any], deadline: int, *, resident: bool
    ) -> tuple[Bool, Counter[str]]:
        inside = (pages >= 0) & (pages < len(self.pool.resident))
        held = self.pool.resident[np.where(inside, pages, 0)] == resident
        reasons = {
            "late": np.full(len(pages), deadline < self.epoch),
            "out_of_range": ~inside,
            "stale_generation": generations != 0,
            "not_resident" if resident else "already_resident": ~held,
        }
        good: Bool = np.ones(len(pages), np.bool_)
        rejected: Counter[str] = Counter()
        for reason, bad in reasons.items():
            if hits := int(np.count_nonzero(good & bad)):
                rejected[reason] = hits
            good &= ~bad
        return good, rejected

    def _snapshot(self) -> Snapshot:
        opened = [(self._sequences[i], self._row[i]) for i in self._open]
        tables = [self._table(i) for i in self._open]
        groups = np.concatenate([np.empty(0, np.int32), *tables])
        lengths = [int(s.lengths[row - 1]) if row else s.prompt_tokens for s, row in opened]
        return Snapshot(
            epoch=max(self.epoch - 1, 0),
            sequences=[s.sequence for s, _ in opened],
            prompt_tokens=np.array([s.prompt_tokens for s, _ in opened], "<i4"),
            lengths=np.array(lengths, "<i4"),
            sequence_steps=np.array([row for _, row in opened], "<i4"),
            offsets=np.cumsum([0, *map(len, tables)]).astype("<i4"),
            groups=groups.astype("<i4"),
            generations=np.zeros(len(groups), "<u4"),
            resident=np.flatnonzero(self.pool.resident).astype("<i4"),
        )


def _pages(sequence: SequenceTrace, page_size: int, *, first: bool = False) -> int:
    """Pages that the sequence has at its first or after its last step."""
    return -(-int(sequence.lengths[0 if first else -1]) // page_size)


def _at_once(sequences: Sequence[SequenceTrace]) -> int:
    """The most sequences that decode in one epoch, if each decodes from its first to its last."""
    starts = sorted(int(s.epochs[0]) for s in sequences)
    ends = sorted(int(s.epochs[-1]) for s in sequences)
    return max(sum(b <= start for b in starts) - sum(e < start for e in ends) for start in starts)
