"""An engine without a model: plays a recorded trace over the wire as if it decoded, and obeys plans.

It joins through `hotset.runtime.engine`, as any engine may, and needs no torch. Residency is real as far as the
wire can tell: a pool of slots, misses that load, victims by plan value or by age, prefetches, generations.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from hotset.predictor.trace import SequenceTrace
from hotset.protos.messages import AccessFlag, Geometry, StepStats
from hotset.protos.trace import TraceMeta
from hotset.runtime.engine import Accesses, CheckedPlan, Engine
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
        self.resident[victims] = False
        self.resident[pages] = True
        return victims

    def use(self, pages: Int32, epoch: int) -> None:
        """Mark pages as used; what a plan said of them before is void."""
        self.used[pages] = epoch
        self.until[pages] = NEVER

    def drop(self, first: int, end: int) -> Int32:
        """Empty the slots of a range of pages, whose sequence is over; returns those that had one."""
        freed = (first + np.flatnonzero(self.resident[first:end])).astype(np.int32)
        self.resident[freed] = False
        return freed

    def victims(self, epoch: int) -> int:
        """How many resident pages were not used at `epoch` or later."""
        return int(np.count_nonzero(self.resident & (self.used < epoch)))

    def check_integrity(self) -> None:
        """Raise AssertionError if more pages are resident than there are slots."""
        assert self.free >= 0, "more pages are resident than there are slots"

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
    """Publishes a trace's steps in the order of their epochs; `step` plays one epoch.

    Every page of every sequence has a group of its own: those of sequence i are `first_group[i]` and following.
    """

    def __init__(
        self, meta: TraceMeta, sequences: Sequence[SequenceTrace], link: ControlLink, geometry: Geometry
    ) -> None:
        self.played = Played()
        self.pool = Pool(geometry)
        self.engine = Engine(link)
        self._geometry = geometry
        self._sequences = list(sequences)
        self._first_group: list[int] = np.cumsum([0, *(_pages(s, meta.page_size) for s in sequences)]).tolist()
        self._groups = [0] * len(sequences)
        self._started: float | None = None
        self._row = [0] * len(sequences)

    def step(self) -> bool:
        """Play the next epoch; False once the trace is over."""
        coming = {i: int(s.epochs[self._row[i]]) for i, s in enumerate(self._sequences) if self._row[i] < len(s.epochs)}
        if not coming:
            return False
        start, epoch = time.perf_counter(), min(coming.values())
        active = [i for i, at in coming.items() if at == epoch]
        for i in active:
            self._grow(i)
        self.engine.begin_step(epoch)
        if (plan := self.engine.take_plan()) is not None:
            self._apply(plan)
        self._decode(active, epoch, start)
        for i in active:
            self._row[i] += 1
            if self._row[i] == len(self._sequences[i].epochs):
                self._end(i)
        return True

    def _grow(self, number: int) -> None:
        """Open the sequence at its first step; later, give it the groups that its next token needs."""
        sequence, row = self._sequences[number], self._row[number]
        have, need = self._groups[number], -(-int(sequence.lengths[row]) // self._geometry.page_size)
        groups = range(self._first_group[number] + have, self._first_group[number] + need)
        if row == 0:
            self.engine.open_sequence(sequence.sequence, prompt_tokens=sequence.prompt_tokens, groups=groups)
        else:
            for group in groups:
                self.engine.add_group(sequence.sequence, group)
        self._groups[number] = max(have, need)

    def _end(self, number: int) -> None:
        first, lanes = self._first_group[number], self._geometry.lanes
        self.engine.close_sequence(self._sequences[number].sequence, "played")
        self.pool.drop(first * lanes, (first + self._groups[number]) * lanes)

    def _decode(self, active: list[int], epoch: int, start: float) -> None:
        """Access what the trace accessed, and report it."""
        rows = [(self._sequences[i], self._row[i]) for i in active]
        numbers = [s.sequence for s, _ in rows]
        candidates, scores, selected = (
            np.concatenate([getattr(s, name)[row] for s, row in rows]) for name in ("pages", "scores", "selected")
        )
        asked = self.engine.physical(numbers, candidates, selected)
        missed = asked[~self.pool.resident[asked]]
        self.pool.use(asked, epoch)
        self.engine.lost(self.pool.load(missed, epoch))
        self.engine.gained(missed, by="demand")
        accesses = self.engine.accesses(numbers, candidates, scores, selected)
        self._count(accesses, len(asked), len(missed))
        stats = StepStats(step_us=int(1e6 * self._period(start)), reserve=max(1, self.pool.slots // 16))
        self.engine.end_step(numbers, [int(s.lengths[row]) for s, row in rows], accesses, stats)

    def _count(self, accesses: Accesses, asked: int, missed: int) -> None:
        self.played.steps += 1
        self.played.accesses += asked
        self.played.demand_misses += missed
        self.played.prefetched_hits += int(np.count_nonzero(accesses.flags & AccessFlag.PREFETCHED))

    def _period(self, start: float) -> float:
        """Seconds since the step before began: a player that is paced waits between steps."""
        period, self._started = start - (self._started or start), start
        return period

    def _apply(self, plan: CheckedPlan) -> None:
        """Values first, then the best prefetches, up to a small share of the pool."""
        self.pool.value[plan.pages] = plan.values
        self.pool.until[plan.pages] = plan.deadline
        # What the last step used is not a victim of a guess.
        last = max(self.engine.epoch - 1, 0)
        room = min(self.pool.free + self.pool.victims(last), max(1, self.pool.slots // 32))
        fetched = plan.prefetch[:room]
        self.engine.lost(self.pool.load(fetched, last))
        self.pool.used[fetched] = last  # young, so that the next misses do not push them out unseen
        self.engine.gained(fetched, by="prefetch")
        self.engine.finish_plan(plan, refused={"no_room": len(plan.prefetch) - len(fetched)})
        self.played.plans += 1
        self.played.entries += len(plan.pages) + len(fetched)
        self.played.prefetched_pages += len(fetched)


def _pages(sequence: SequenceTrace, page_size: int, *, first: bool = False) -> int:
    """Pages that the sequence has at its first or after its last step."""
    return -(-int(sequence.lengths[0 if first else -1]) // page_size)


def _at_once(sequences: Sequence[SequenceTrace]) -> int:
    """The most sequences that decode in one epoch, if each decodes from its first to its last."""
    starts = sorted(int(s.epochs[0]) for s in sequences)
    ends = sorted(int(s.epochs[-1]) for s in sequences)
    return max(sum(b <= start for b in starts) - sum(e < start for e in ends) for start in starts)
