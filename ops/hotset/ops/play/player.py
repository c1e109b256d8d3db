"""An engine without a model: plays a recorded trace over the wire as if it decoded, and obeys plans.

It joins through `hotset.runtime.engine`, as any engine may, and needs no torch. Residency is real as far as the
wire can tell: a pool of slots, misses that load, victims by plan value or by age, prefetches, generations. What it
holds does not grow with what it has played: a sequence that ends gives its groups to those that come. Where the trace
recorded a lookahead, it sends the ranks, takes models and decides inside the step by them (`InsideStep`).
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from hotset.ops.play.figures import Figures
from hotset.ops.play.inside import InsideStep, protection, wanted
from hotset.ops.play.pool import Int32, Pool
from hotset.predictor.trace import SequenceTrace
from hotset.protos.lookahead import PROTECTED
from hotset.protos.messages import AccessFlag, Geometry, StepStats
from hotset.protos.trace import TraceMeta
from hotset.runtime.engine import Accesses, CheckedPlan, Engine
from hotset.runtime.link import ControlLink

VALUES_HOLD = 4
"""steps for which the device's value of a page counts"""


def geometry_of(meta: TraceMeta, sequences: Sequence[SequenceTrace], ratio: float) -> Geometry:
    """Groups for all sequences that decode at once, and slots for `ratio` times a selection of each of their lanes."""
    lanes = meta.layers * meta.kv_heads
    count, groups = _at_once(sequences, meta.page_size)
    return Geometry(
        layers=meta.layers, kv_heads=meta.kv_heads, page_size=meta.page_size, selected=meta.selected,
        candidates=meta.candidates, page_bytes=meta.page_bytes,
        slots=max(1, round(ratio * meta.selected)) * lanes * count, groups=groups,
    )  # fmt: skip


@dataclass
class Played:
    """Cumulative counts; a page is one page of one lane."""

    steps: int = 0
    accesses: int = 0
    demand_misses: int = 0
    prefetched_hits: int = 0
    prefetched_pages: int = 0
    """for plans"""
    inside_pages: int = 0
    """prefetched by decisions inside the step"""
    plans: int = 0
    entries: int = 0


@dataclass
class Turn:
    """One sequence of the trace, under a number of its own, `shift` epochs after it was recorded."""

    trace: SequenceTrace
    number: int
    shift: int
    row: int = 0
    """Of the step that comes next."""
    groups: list[int] = field(default_factory=list)

    @property
    def epoch(self) -> int:
        """Of the step that comes next."""
        return int(self.trace.epochs[self.row]) + self.shift

    @property
    def length(self) -> int:
        """Tokens with the step that comes next."""
        return int(self.trace.lengths[self.row])


def turns(sequences: Sequence[SequenceTrace], times: int) -> Iterator[Turn]:
    """The same sequences `times` over, each time under new numbers, as they begin."""
    numbers = max(s.sequence for s in sequences) + 1
    span = max(int(s.epochs[-1]) for s in sequences) + 1
    first = sorted(sequences, key=lambda s: int(s.epochs[0]))
    return (Turn(s, s.sequence + t * numbers, t * span) for t in range(times) for s in first)


class TracePlayer:
    """Publishes the steps of a trace, `times` over, in the order of their epochs; `step` plays one epoch."""

    def __init__(
        self,
        meta: TraceMeta,
        sequences: Sequence[SequenceTrace],
        link: ControlLink,
        geometry: Geometry,
        times: int = 1,
        inside: InsideStep | None = None,
    ) -> None:
        """`inside` is what the `link` has announced; without it nothing is decided inside the step."""
        self.played = Played()
        self.pool = Pool(geometry)
        self.inside = inside or InsideStep(meta, [])
        ahead = bool(self.inside.distances)
        self.engine = Engine(link, takes_models=ahead, takes_lookahead=ahead)
        self._figures = Figures(geometry)
        self._geometry = geometry
        self._lane: Int32 = np.arange(geometry.lanes, dtype=np.int32)
        self._free = list(range(geometry.groups - 1, -1, -1))
        self._coming = turns(sequences, times)
        self._next = next(self._coming, None)
        self._running: list[Turn] = []
        self._started: float | None = None

    def step(self) -> bool:
        """Play the next epoch; False once the trace is over."""
        start, epoch = time.perf_counter(), self._admit()
        if epoch is None:
            return False
        active = [turn for turn in self._running if turn.epoch == epoch]
        for turn in active:
            self._grow(turn)
        self.engine.begin_step(epoch)
        if (plan := self.engine.take_plan()) is not None:
            self._apply(plan)
        if self.inside.distances:
            self._steer(epoch)
        self._decode(active, epoch, start)
        for turn in active:
            turn.row += 1
            if turn.row == len(turn.trace.epochs):
                self._end(turn)
        return True

    def _admit(self) -> int | None:
        """The epoch that comes next, with whoever begins in it; None if nobody has a step left."""
        epoch = min((turn.epoch for turn in self._running), default=None)
        while self._next is not None and (epoch is None or self._next.epoch <= epoch):
            epoch = self._next.epoch
            self._running.append(self._next)
            self._next = next(self._coming, None)
        return epoch

    def _grow(self, turn: Turn) -> None:
        """Open the sequence at its first step; later, give it the groups that its next token needs."""
        need = -(-turn.length // self._geometry.page_size)
        groups = [self._free.pop() for _ in range(need - len(turn.groups))]
        turn.groups += groups
        if turn.row == 0:
            self.engine.open_sequence(turn.number, prompt_tokens=turn.trace.prompt_tokens, groups=groups)
        else:
            for group in groups:
                self.engine.add_group(turn.number, group)

    def _end(self, turn: Turn) -> None:
        self._running.remove(turn)
        freed = self.engine.close_sequence(turn.number, "played")
        self.inside.forget(turn.number)
        pages = (np.array(freed, np.int32)[:, None] * np.int32(self._geometry.lanes) + self._lane).ravel()
        self._figures.lost(pages)
        self.pool.drop(pages)
        self._free += freed

    def _decode(self, active: list[Turn], epoch: int, start: float) -> None:
        """Access what the trace accessed, and report it."""
        ranks = self._look(active, epoch) if self.inside.distances else {}
        numbers, lengths = [turn.number for turn in active], [turn.length for turn in active]
        candidates, scores, selected = (
            np.concatenate([getattr(turn.trace, name)[turn.row] for turn in active])
            for name in ("pages", "scores", "selected")
        )
        asked = self.engine.physical(numbers, candidates, selected)
        missed = asked[~self.pool.resident[asked]]
        self.pool.use(asked, epoch)
        self._figures.used(asked)
        self._figures.demanded(missed)
        self._load(missed, epoch)
        self.engine.gained(missed, by="demand")
        accesses = self.engine.accesses(numbers, candidates, scores, selected)
        self._count(accesses, len(asked), len(missed))
        stats = StepStats(
            step_us=int(1e6 * self._period(start)), reserve=max(1, self.pool.slots // 16),
            device_model=self.inside.version,
        )  # fmt: skip
        if self.inside.distances:
            self._settle(active, epoch)
            figures = self._figures.take(self.inside.distance, self.inside.least)
            accesses = accesses._replace(lookahead=ranks, by_layer=figures)
        self.engine.end_step(numbers, lengths, accesses, stats)

    def _steer(self, epoch: int) -> None:
        """Take what the daemon sent for the inside of the step."""
        if (model := self.engine.take_model()) is not None:
            reason = self.inside.take(model)
            self.engine.answer(model, accepted=not reason, reason=reason)
        if (steer := self.engine.take_lookahead()) is not None:
            reason = self.inside.follow(steer, epoch)
            self.engine.answer(steer, accepted=not reason, reason=reason)
        self.inside.begin_step(epoch)

    def _look(self, active: list[Turn], epoch: int) -> dict[int, Int32]:
        """Prefetch by lookahead, as far as the pool has room; returns the ranks by distance, [rows, r]."""
        found = [
            self.inside.look(t.number, {d: ranks[t.row] for d, ranks in t.trace.lookahead.items()}) for t in active
        ]
        pages = np.concatenate(
            [_physical(t, r.lanes, r.pages, self._geometry) for t, r in zip(active, found, strict=True)]
        )
        sure = np.concatenate([r.sure for r in found])
        here = self.pool.resident[pages]
        likely = sure >= PROTECTED
        self.pool.value[pages[likely]], self.pool.until[pages[likely]] = protection(sure[likely]), epoch
        layer = pages % self._geometry.lanes // self._geometry.kv_heads
        least = np.where(here, np.float32(np.inf), self.inside.least[layer]).astype(np.float32)
        chosen = pages[wanted(sure, least, self.inside.pages, layer)]
        worth = pages[sure >= least]
        chosen = chosen[: self.pool.free + self.pool.victims(epoch)]
        self._load(chosen, epoch)
        self.engine.gained(chosen, by="prefetch")
        self._figures.prefetched(chosen, "step")
        self._figures.held(np.setdiff1d(worth, chosen))
        self.played.inside_pages += len(chosen)
        return {early: np.concatenate([r.ranks[early] for r in found]) for early in self.inside.distances}

    def _settle(self, active: list[Turn], epoch: int) -> None:
        """Learn what was used, and let the model value the candidates until they are candidates again, or a while."""
        for turn in active:
            seen = (getattr(turn.trace, name)[turn.row] for name in ("pages", "scores", "selected"))
            told = self.inside.settle(turn.number, turn.length, *seen)
            if told is not None:
                pages = _physical(turn, told[0], told[1], self._geometry)
                self.pool.value[pages], self.pool.until[pages] = told[2], epoch + VALUES_HOLD

    def _load(self, pages: Int32, epoch: int) -> None:
        victims = self.pool.load(pages, epoch)
        self._figures.lost(victims)
        self.engine.lost(victims)

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
        self._load(fetched, last)
        self._figures.prefetched(fetched, "plan")
        self.pool.used[fetched] = last  # young, so that the next misses do not push them out unseen
        self.engine.gained(fetched, by="prefetch")
        self.engine.finish_plan(plan, refused={"no_room": len(plan.prefetch) - len(fetched)})
        self.played.plans += 1
        self.played.entries += len(plan.pages) + len(fetched)
        self.played.prefetched_pages += len(fetched)


def _physical(turn: Turn, lanes: Int32, pages: Int32, geometry: Geometry) -> Int32:
    """Physical pages of lanes [m], pages [m] of a sequence."""
    physical: Int32 = np.array(turn.groups, np.int32)[pages] * np.int32(geometry.lanes) + lanes
    return physical


def _at_once(sequences: Sequence[SequenceTrace], page_size: int) -> tuple[int, int]:
    """The most sequences, and the most pages, of one epoch, if each sequence decodes from its first to its last."""
    first, last = (np.array([s.epochs[at] for s in sequences]) for at in (0, -1))
    pages = np.array([-(-int(s.lengths[-1]) // page_size) for s in sequences])
    running = (first <= first[:, None]) & (last >= first[:, None])
    return int(running.sum(axis=1).max()), int((running * pages).sum(axis=1).max())
