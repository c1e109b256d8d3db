"""How an engine that is not ours joins: one class, no torch. docs/engine.md walks through an integration.

`Engine` keeps what the wire speaks of (group tables, generations, who is resident), so that the author of an
engine reports only what happened, and gets plans whose every entry is current. It answers snapshots by itself.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from hotset.protos.errors import ModelError
from hotset.protos.forest import FlatForest, sha256
from hotset.protos.messages import (
    AccessFlag,
    Ack,
    Advice,
    Capacity,
    Geometry,
    Model,
    Plan,
    SequenceClose,
    SequenceOpen,
    Snapshot,
    Step,
    StepStats,
)
from hotset.protos.transport import CurveKeys
from hotset.runtime.link import ControlLink

Int32 = npt.NDArray[np.int32]
UInt8 = npt.NDArray[np.uint8]
Bool = npt.NDArray[np.bool_]
NEVER = -1
_NO_PAGES: Int32 = np.empty(0, np.int32)


class Accesses(NamedTuple):
    """What the lanes of a step looked at, [rows, n], n up to `geometry.candidates`.

    Rows are lanes: in the order of the step's sequences, then layer, then KV head. `candidates` are logical pages
    (int32, -1 pads); `scores` are page attention masses m as 255 + 8 log2(m), clipped to 0..255 (uint8);
    `flags` are `AccessFlag` bits (uint8).
    """

    candidates: Int32
    scores: UInt8
    flags: UInt8


@dataclass(frozen=True)
class CheckedPlan:
    """What is left of a plan: every entry is in range, of a current generation, and fits what is resident.

    `values[i]` (log2 of steps to next use, smaller is hotter) holds for the resident page `pages[i]` until it is
    used or step `deadline` is over. `prefetch` are pages outside, best first, each once. Pages are physical.
    """

    number: int
    epoch: int
    deadline: int
    learned: bool
    pages: Int32
    values: npt.NDArray[np.float32]
    prefetch: Int32
    rejected: Counter[str]


class CheckedModel(NamedTuple):
    """A forest whose bytes have the hash that was promised, and that is well formed."""

    number: int
    version: str
    forest: FlatForest


@dataclass
class _Sequence:
    number: int
    prompt_tokens: int
    length: int
    groups: list[int]
    steps: int = 0


@dataclass
class _Pending:
    """What the next step message has to tell."""

    touched: list[Int32] = field(default_factory=list)
    groups: list[tuple[int, int, int]] = field(default_factory=list)


class Engine:
    """The decode engine's view of its daemon. Call it from the thread that decodes; no method waits.

        with Engine.listen(model="llama", geometry=geometry, builtin_policy="lru") as engine:
            engine.open_sequence(7, prompt_tokens=4096, groups=table)
            while engine_has_work:
                engine.begin_step()
                if (plan := engine.take_plan()) is not None:
                    pool.rank(plan.pages, plan.values, until=plan.deadline)
                    started = pool.fetch(plan.prefetch)
                    engine.finish_plan(plan, refused={"no_room": len(plan.prefetch) - started})
                ...                                      # decode one token for every running sequence
                engine.lost(victims)                     # physical pages, as they lose and gain slots
                engine.gained(missed, by="demand")
                accesses = engine.accesses([7], candidates, scores, selected) if engine.attached else None
                engine.end_step([7], [length], accesses, StepStats(step_us=took, stall_us=waited))
            engine.close_sequence(7, "stop")

    A group, its generation and physical pages are as in docs/protocol.md. What the author of the engine gets wrong
    (an unknown sequence, a page out of range, arrays that do not fit) raises ValueError or IndexError; what a peer gets
    wrong never raises. Memory: 11 bytes a physical page and 8 a group.
    """

    def __init__(self, link: ControlLink, *, takes_advice: bool = False, takes_models: bool = False) -> None:
        """Speak over `link`, which is closed with the engine.

        Advice and models that the engine does not take are answered on its behalf.
        """
        self.geometry = link.geometry
        self.epoch = 0
        """The step that runs or comes next."""
        self.resident: Bool = np.zeros(self.geometry.groups * self.geometry.lanes, np.bool_)
        self.plans_applied = self.entries_applied = 0
        self.entries_rejected: Counter[str] = Counter()
        self._link = link
        self._takes_advice, self._takes_models = takes_advice, takes_models
        self._prefetched = np.zeros_like(self.resident)
        self._missed = np.zeros_like(self.resident)
        self._used: npt.NDArray[np.int64] = np.full(len(self.resident), NEVER, np.int64)
        self._generation: npt.NDArray[np.uint32] = np.zeros(self.geometry.groups, np.uint32)
        self._references: npt.NDArray[np.int32] = np.zeros(self.geometry.groups, np.int32)
        self._sequences: dict[int, _Sequence] = {}
        self._demanded: list[Int32] = []
        self._count = self._prefetches = 0
        self._pending = _Pending()

    @classmethod
    def listen(
        cls,
        *,
        model: str,
        geometry: Geometry,
        builtin_policy: str,
        capacity: Capacity | None = None,
        endpoint: str | None = None,
        keys: CurveKeys | None = None,
        folder: Path | None = None,
        takes_advice: bool = False,
        takes_models: bool = False,
    ) -> Engine:
        """Publish this process, so that `hotset ps` finds it and a daemon may attach. See ControlLink for the options.

        Raises ProtocolError if the runtime folder is not private or the endpoint cannot be bound.
        """
        link = ControlLink(
            model=model, geometry=geometry, builtin_policy=builtin_policy, capacity=capacity,
            endpoint=endpoint, keys=keys, folder=folder,
        )  # fmt: skip
        return cls(link, takes_advice=takes_advice, takes_models=takes_models)

    @property
    def attached(self) -> bool:
        """Whether anybody listens: only then is it worth gathering what a step accessed."""
        return self._link.attached

    @property
    def endpoint(self) -> str:
        """Where peers connect to."""
        return self._link.endpoint

    @property
    def free(self) -> int:
        """Slots that hold nothing."""
        return self.geometry.slots - self._count

    # Sequences and their groups.

    def open_sequence(
        self, sequence: int, *, prompt_tokens: int, groups: npt.ArrayLike, parent: int | None = None
    ) -> None:
        """A sequence has its prompt and will decode. `groups[i]` holds logical page i; the last may be the tail.

        Groups that another sequence holds too are shared with it, as after a fork of `parent`.
        """
        if sequence in self._sequences:
            raise ValueError(f"sequence {sequence} is open already")
        table = self._checked(groups, self.geometry.groups, "group")
        np.add.at(self._references, table, 1)
        self._sequences[sequence] = _Sequence(sequence, prompt_tokens, prompt_tokens, table.tolist())
        self._link.publish(
            SequenceOpen(
                sequence=sequence, prompt_tokens=prompt_tokens, parent=parent,
                groups=table, generations=self._generation[table],
            )
        )  # fmt: skip

    def add_group(self, sequence: int, group: int) -> None:
        """The sequence goes on in one more group, its new tail."""
        self._checked([group], self.geometry.groups, "group")
        self._known(sequence).groups.append(group)
        self._references[group] += 1
        self._pending.groups.append((sequence, group, int(self._generation[group])))

    def close_sequence(self, sequence: int, reason: str) -> list[int]:
        """A sequence has ended. Returns the groups that nobody holds any more: their pages are not resident now."""
        closed = self._known(sequence)
        del self._sequences[sequence]
        table = np.array(closed.groups, np.int32)
        np.subtract.at(self._references, table, 1)
        freed = np.unique(table[self._references[table] == 0])
        self._generation[freed] += 1
        pages = (freed[:, None] * self.geometry.lanes + np.arange(self.geometry.lanes, dtype=np.int32)).ravel()
        self.lost(pages[self.resident[pages]])
        self._used[pages] = NEVER
        self._pending.groups = [new for new in self._pending.groups if new[0] != sequence]
        self._link.publish(SequenceClose(sequence=sequence, tokens=closed.length, reason=reason))
        freed_groups: list[int] = freed.tolist()
        return freed_groups

    # Residency, in the order in which it changes.

    def gained(self, pages: npt.ArrayLike, *, by: Literal["demand", "prefetch", "prompt"]) -> None:
        """Physical pages have a slot now: after a demand miss, by a prefetch that arrived, or since the prompt."""
        new = self._checked(pages, len(self.resident), "page")
        new = np.unique(new[~self.resident[new]])
        self.resident[new] = True
        self._count += len(new)
        self._pending.touched.append(new)
        if by == "demand":
            self._missed[new] = True
            self._demanded.append(new)
        elif by == "prefetch":
            self._prefetched[new] = True
            self._prefetches += len(new)

    def lost(self, pages: npt.ArrayLike) -> None:
        """Physical pages have no slot any more."""
        gone = self._checked(pages, len(self.resident), "page")
        gone = np.unique(gone[self.resident[gone]])
        self.resident[gone] = self._prefetched[gone] = False
        self._count -= len(gone)
        self._pending.touched.append(gone)

    # A step.

    def begin_step(self, epoch: int | None = None) -> None:
        """A safe point: answer who waits for a snapshot. `epoch` numbers the step if it is not the next one."""
        self.epoch = self.epoch if epoch is None else epoch
        if self._link.snapshot_wanted():
            self._link.publish(self._snapshot())
        if not self._takes_models:
            for model in self._link.take_models():
                self.answer(model, accepted=False, reason="this engine does not score")
        if not self._takes_advice and (advice := self._link.take_advice()) is not None:
            self.answer(advice, accepted=False, reason="this engine does not take advice")

    def accesses(self, sequences: Sequence[int], candidates: Int32, scores: UInt8, selected: Bool) -> Accesses:
        """Flags for what was `selected` ([rows, n] bool), from what is known of residency; marks those pages as used.

        A selected page is a hit unless it was gained by demand in this step. Call it once a step, before `end_step`.
        """
        rows, columns = np.nonzero(selected)
        pages = self.physical(sequences, rows, candidates[rows, columns])
        hit, first = self.resident[pages] & ~self._missed[pages], self._prefetched[pages]
        flags = np.zeros(candidates.shape, np.uint8)
        flags[rows, columns] = AccessFlag.SELECTED | hit * AccessFlag.HIT | (hit & first) * AccessFlag.PREFETCHED
        self._used[pages] = self.epoch
        self._prefetched[pages] = False
        return Accesses(candidates, scores, flags)

    def physical(self, sequences: Sequence[int], rows: npt.NDArray[Any], pages: npt.NDArray[Any]) -> Int32:
        """Physical pages of logical `pages` [m] in `rows` [m] of a step of `sequences`."""
        lanes = self.geometry.lanes
        tables = [self._known(number).groups for number in sequences]
        starts = np.cumsum([0, *map(len, tables)])
        groups = np.concatenate([_NO_PAGES, *(np.array(table, np.int32) for table in tables)])
        owner = rows // lanes
        if pages.size and not bool(((pages >= 0) & (pages < np.diff(starts)[owner])).all()):
            raise ValueError("a page lies beyond the groups of its sequence")
        physical: Int32 = groups[starts[owner] + pages] * np.int32(lanes) + (rows % lanes).astype(np.int32)
        return physical

    def end_step(
        self,
        sequences: Sequence[int],
        lengths: Sequence[int],
        accesses: Accesses | None,
        stats: StepStats = StepStats(),  # noqa: B008 (frozen)
    ) -> None:
        """The step is over: `sequences` have `lengths` tokens now, the new one included.

        Of `stats` give what only the engine knows: times, `written_pages`, `waiting`, `paused`, `hot_slots`,
        `reserve`. Without `accesses` nothing is sent, and the changes wait for the next step that has them.
        """
        for number, length in zip(sequences, lengths, strict=True):
            known = self._known(number)
            known.length, known.steps = length, known.steps + 1
        if accesses is not None and self.attached:
            self._link.publish(self._message(sequences, accesses, stats))
            self._pending = _Pending()
        elif not self.attached:
            # Whoever attaches later starts from a snapshot.
            self._pending = _Pending()
        for pages in self._demanded:
            self._missed[pages] = False
        self._demanded, self._prefetches = [], 0
        self._link.at_epoch(self.epoch)
        self.epoch += 1

    # What the daemon sends.

    def take_plan(self) -> CheckedPlan | None:
        """The newest plan, with only those entries that hold now; None if there is none or it is late.

        Call it at a safe point, apply what you can, then call `finish_plan`.
        """
        plan = self._link.take_plan()
        if plan is None:
            return None
        late = plan.deadline < self.epoch
        if late or plan.epoch >= max(1, self.epoch):
            reason, entries = "late" if late else "unknown_epoch", len(plan.pages) + len(plan.prefetch)
            self.entries_rejected[reason] += entries
            self._link.publish(
                Ack(of="plan", number=plan.number, accepted=False, rejected={reason: entries}, reason=reason)
            )
            return None
        rejected = Counter[str]()
        good = self._valid_values(plan, rejected)
        fetch = self._valid_prefetch(plan, rejected)
        return CheckedPlan(
            plan.number, plan.epoch, plan.deadline, plan.source == "learned",
            plan.pages[good], plan.values[good], plan.prefetch[fetch], rejected,
        )  # fmt: skip

    def finish_plan(self, plan: CheckedPlan, refused: Mapping[str, int] | None = None) -> None:
        """Tell that a plan is applied, but for so many entries `refused` by reason (`no_room`, ...)."""
        refused = {reason: count for reason, count in (refused or {}).items() if count}
        rejected = plan.rejected + Counter(refused)
        applied = max(0, len(plan.pages) + len(plan.prefetch) - sum(refused.values()))
        self.plans_applied += 1
        self.entries_applied += applied
        self.entries_rejected.update(rejected)
        self._link.publish(Ack(of="plan", number=plan.number, accepted=True, applied=applied, rejected=dict(rejected)))

    def take_advice(self) -> Advice | None:
        """The newest advice that was not taken yet; say with `answer` whether the engine follows it."""
        return self._link.take_advice() if self._takes_advice else None

    def take_model(self) -> CheckedModel | None:
        """The newest model whose bytes are what they should be; say with `answer` whether the engine uses it."""
        newest: CheckedModel | None = None
        for model in self._link.take_models() if self._takes_models else ():
            data = model.forest.tobytes()
            try:
                if sha256(data) != model.sha256:
                    raise ModelError("the bytes do not have the hash that the message promises")
                checked = CheckedModel(model.number, model.version, FlatForest.from_bytes(data))
            except ModelError as error:
                self.answer(model, accepted=False, reason=str(error))
                continue
            if newest is not None:
                self.answer(newest, accepted=False, reason=f"superseded by {model.number}")
            newest = checked
        return newest

    def answer(self, message: Advice | Model | CheckedModel, *, accepted: bool, reason: str = "") -> None:
        """Tell the daemon whether the engine follows its advice or uses its model."""
        of = "advice" if isinstance(message, Advice) else "model"
        self._link.publish(Ack(of=of, number=message.number, accepted=accepted, reason=reason[:4096]))

    def close(self) -> None:
        """Deliver what is queued and disappear from `hotset ps`."""
        self._link.close()

    def __enter__(self) -> Engine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def check_integrity(self) -> None:
        """Raise AssertionError if tables, reference counts and residency contradict each other."""
        held = np.zeros_like(self._references)
        for sequence in self._sequences.values():
            np.add.at(held, sequence.groups, 1)
        assert bool((held == self._references).all()), "reference counts are not those of the tables"
        assert self._count == int(np.count_nonzero(self.resident)), "the count of resident pages is off"
        assert self.free >= 0, "more pages are resident than there are slots"
        assert not bool((self._prefetched & ~self.resident).any()), "a prefetched page is not resident"
        owners = self._references[np.flatnonzero(self.resident) // self.geometry.lanes]
        assert bool((owners > 0).all()), "a page is resident whose group nobody holds"

    def _valid_values(self, plan: Plan, rejected: Counter[str]) -> Bool:
        page, reasons = self._stale(plan.pages, plan.generations)
        reasons["not_resident"] = ~self.resident[page]
        reasons["superseded"] = self._used[page] > plan.epoch
        return _sift(reasons, rejected)

    def _valid_prefetch(self, plan: Plan, rejected: Counter[str]) -> Bool:
        page, reasons = self._stale(plan.prefetch, plan.prefetch_generations)
        again = np.ones(len(page), np.bool_)
        again[np.unique(page, return_index=True)[1]] = False
        reasons["not_stored"] = self._references[page // self.geometry.lanes] == 0
        reasons["resident"] = self.resident[page]
        reasons["in_flight"] = again
        return _sift(reasons, rejected)

    def _stale(self, pages: Int32, generations: npt.NDArray[np.uint32]) -> tuple[Int32, dict[str, Bool]]:
        inside = (pages >= 0) & (pages < len(self.resident))
        page = np.where(inside, pages, 0)
        current = self._generation[page // self.geometry.lanes] == generations
        return page, {"out_of_range": ~inside, "stale_generation": ~current}

    def _message(self, sequences: Sequence[int], accesses: Accesses, stats: StepStats) -> Step:
        known = [self._known(number) for number in sequences]
        touched = np.unique(np.concatenate([_NO_PAGES, *self._pending.touched]))
        held = self.resident[touched]
        new = self._pending.groups
        return Step(
            epoch=self.epoch,
            sequences=list(sequences),
            stats=self._completed(stats),
            lengths=np.array([s.length for s in known], "<i4"),
            sequence_steps=np.array([s.steps - 1 for s in known], "<i4"),
            candidates=accesses.candidates,
            scores=accesses.scores,
            flags=accesses.flags,
            new_sequence=np.array([sequence for sequence, _, _ in new], "<i8"),
            new_group=np.array([group for _, group, _ in new], "<i4"),
            new_generation=np.array([generation for _, _, generation in new], "<u4"),
            loaded=touched[held],
            evicted=touched[~held],
        )

    def _completed(self, stats: StepStats) -> StepStats:
        demand = sum(map(len, self._demanded))
        counts = {
            "demand_pages": demand,
            "prefetch_pages": self._prefetches,
            "moved_bytes": (demand + self._prefetches) * self.geometry.page_bytes,
            "free": self.free,
            "steps_dropped": self._link.counters.steps_dropped,
            "plans_applied": self.plans_applied,
            "entries_applied": self.entries_applied,
            "entries_rejected": dict(self.entries_rejected),
        }
        return stats.model_copy(update=counts)

    def _snapshot(self) -> Snapshot:
        known = list(self._sequences.values())
        groups = np.concatenate([_NO_PAGES, *(np.array(s.groups, np.int32) for s in known)])
        return Snapshot(
            epoch=max(self.epoch - 1, 0),
            sequences=[s.number for s in known],
            prompt_tokens=np.array([s.prompt_tokens for s in known], "<i4"),
            lengths=np.array([s.length for s in known], "<i4"),
            sequence_steps=np.array([s.steps for s in known], "<i4"),
            offsets=np.cumsum([0, *(len(s.groups) for s in known)]).astype("<i4"),
            groups=groups,
            generations=self._generation[groups],
            resident=np.flatnonzero(self.resident).astype("<i4"),
        )

    def _known(self, sequence: int) -> _Sequence:
        if sequence not in self._sequences:
            raise ValueError(f"sequence {sequence} is not open")
        return self._sequences[sequence]

    @staticmethod
    def _checked(values: npt.ArrayLike, end: int, what: str) -> Int32:
        array = np.asarray(values, np.int32).ravel()
        if array.size and not (array.min() >= 0 and array.max() < end):
            raise ValueError(f"a {what} lies outside 0..{end - 1}")
        return array


def _sift(reasons: dict[str, Bool], rejected: Counter[str]) -> Bool:
    """Entries for which no reason holds; the others are counted under the first that does."""
    good = np.ones_like(reasons["out_of_range"])
    for reason, bad in reasons.items():
        if hits := int(np.count_nonzero(good & bad)):
            rejected[reason] += hits
        good &= ~bad
    return good
