"""The engine's end of the wire: see `Engine`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from hotset.protos.device_model import MAGIC as DEVICE_MAGIC
from hotset.protos.device_model import DeviceModel
from hotset.protos.errors import ModelError
from hotset.protos.forest import FlatForest, sha256
from hotset.protos.messages import (
    Ack,
    Advice,
    Capacity,
    Geometry,
    InStep,
    Lookahead,
    Model,
    SequenceClose,
    SequenceOpen,
    Step,
    StepStats,
)
from hotset.protos.transport import CurveKeys
from hotset.runtime.engine.pages import Accesses, Bool, Cause, Int32, PageTables, UInt8
from hotset.runtime.link import ControlLink


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
    """A forest, or the two of a device model, whose bytes have the hash that was promised, and are well formed.

    None takes back the model that decides.
    """

    number: int
    version: str
    forest: FlatForest | DeviceModel | None


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
    (an unknown sequence, a page out of range, arrays that do not fit) raises ValueError; what a peer gets
    wrong never raises. Memory: 2 bytes a physical page, 8 a group, and 4 a page selected in the last 16 steps.
    """

    def __init__(
        self,
        link: ControlLink,
        *,
        takes_advice: bool = False,
        takes_models: bool = False,
        takes_lookahead: bool = False,
    ) -> None:
        """Speak over `link`, which is closed with the engine.

        Advice, models and steering of a lookahead that the engine does not take are answered on its behalf.
        """
        self.geometry = link.geometry
        self.tables = PageTables(link.geometry)
        self.epoch = 0
        """The step that runs or comes next."""
        self.plans_applied = self.entries_applied = 0
        self.entries_rejected: Counter[str] = Counter()
        self._link = link
        self._takes_advice, self._takes_models, self._takes_lookahead = takes_advice, takes_models, takes_lookahead
        self._new_groups: list[tuple[int, int, int]] = []

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
        in_step: InStep | None = None,
    ) -> Engine:
        """Publish this process, so that `hotset ps` finds it and a daemon may attach. See ControlLink for the options.

        Raises ProtocolError if the runtime folder is not private or the endpoint cannot be bound.
        """
        link = ControlLink(
            model=model, geometry=geometry, builtin_policy=builtin_policy, capacity=capacity,
            endpoint=endpoint, keys=keys, folder=folder, in_step=in_step,
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
    def resident(self) -> Bool:
        """Which physical pages have a slot, as reported."""
        return self.tables.resident

    # Sequences and their groups.

    def open_sequence(
        self, sequence: int, *, prompt_tokens: int, groups: npt.ArrayLike, parent: int | None = None
    ) -> None:
        """A sequence has its prompt and will decode. `groups[i]` holds logical page i; the last may be the tail.

        Groups that another sequence holds too are shared with it, as after a fork of `parent`.
        """
        table = self.tables.open(sequence, prompt_tokens, groups)
        generations = self.tables.generation[table]
        self._link.publish(
            SequenceOpen(
                sequence=sequence, prompt_tokens=prompt_tokens, parent=parent, groups=table, generations=generations
            )
        )

    def add_group(self, sequence: int, group: int) -> None:
        """The sequence goes on in one more group, its new tail."""
        self.tables.add(sequence, group)
        self._new_groups.append((sequence, group, int(self.tables.generation[group])))

    def close_sequence(self, sequence: int, reason: str) -> list[int]:
        """A sequence has ended. Returns the groups that nobody holds any more: their pages are not resident now."""
        tokens = self.tables.sequence(sequence).length
        freed = self.tables.close(sequence)
        self._new_groups = [new for new in self._new_groups if new[0] != sequence]
        self._link.publish(SequenceClose(sequence=sequence, tokens=tokens, reason=reason))
        return freed

    # Residency, in the order in which it changes.

    def gained(self, pages: npt.ArrayLike, *, by: Cause) -> None:
        """Physical pages have a slot now: after a demand miss, by a prefetch that arrived, or since the prompt."""
        self.tables.gained(pages, by)

    def lost(self, pages: npt.ArrayLike) -> None:
        """Physical pages have no slot any more."""
        self.tables.lost(pages)

    # A step.

    def begin_step(self, epoch: int | None = None) -> None:
        """A safe point: answer who waits for a snapshot. `epoch` numbers the step if it is not the next one."""
        self.epoch = self.epoch if epoch is None else epoch
        if self._link.snapshot_wanted():
            self._link.publish(self.tables.snapshot(max(self.epoch - 1, 0)))
        if not self._takes_models:
            for model in self._link.take_models():
                self.answer(model, accepted=False, reason="unsupported: this engine does not score")
        if not self._takes_lookahead and (lookahead := self._link.take_lookahead()) is not None:
            self.answer(lookahead, accepted=False, reason="this engine does not decide inside the step")
        if not self._takes_advice and (advice := self._link.take_advice()) is not None:
            self.answer(advice, accepted=False, reason="this engine does not take advice")

    def accesses(self, sequences: Sequence[int], candidates: Int32, scores: UInt8, selected: Bool) -> Accesses:
        """Flags for what was `selected` ([rows, n] bool), from what is known of residency; marks those pages as used.

        A selected page is a hit unless it was gained by demand in this step. Call it once a step, before `end_step`.
        """
        return Accesses(candidates, scores, self.tables.use(sequences, candidates, selected, self.epoch))

    @staticmethod
    def ranked(candidates: Int32, scores: npt.NDArray[Any]) -> Int32:
        """Ranks for `Accesses.lookahead`: an estimate's `candidates` (-1 pads) by its `scores`, all [rows, r].

        Best first, as they stand where scores are equal.
        """
        order = np.argsort(np.where(candidates < 0, np.inf, -scores.astype(np.float64)), axis=1, kind="stable")
        ranks: Int32 = np.take_along_axis(candidates, order, axis=1).astype(np.int32)
        return ranks

    def physical(self, sequences: Sequence[int], candidates: Int32, selected: Bool) -> Int32:
        """Physical pages of the `selected` ones among a step's `candidates` ([rows, n] both), row by row."""
        return self.tables.physical(sequences, candidates, selected)

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
            known = self.tables.sequence(number)
            known.length, known.steps = length, known.steps + 1
        if not self.attached:
            # Whoever attaches later starts from a snapshot.
            self.tables.forget_changes()
            self._new_groups.clear()
        elif accesses is not None:
            self._link.publish(self._message(sequences, accesses, stats))
        self.tables.end_step()
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
        if late or plan.epoch >= max(1, self.epoch) or not self.tables.remembers(plan.epoch):
            reason, entries = "late" if late else "unknown_epoch", len(plan.pages) + len(plan.prefetch)
            self.entries_rejected[reason] += entries
            self._link.publish(
                Ack(of="plan", number=plan.number, accepted=False, rejected={reason: entries}, reason=reason)
            )
            return None
        good, fetch, rejected = self.tables.sift(plan)
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

    def take_lookahead(self) -> Lookahead | None:
        """The newest steering of what the engine decides inside a step; say with `answer` whether it follows."""
        return self._link.take_lookahead() if self._takes_lookahead else None

    def take_model(self) -> CheckedModel | None:
        """The newest model whose bytes are what they should be; say with `answer` whether the engine uses it."""
        newest: CheckedModel | None = None
        for model in self._link.take_models() if self._takes_models else ():
            try:
                checked = check_model(model)
            except ModelError as error:
                self.answer(model, accepted=False, reason=str(error))
                continue
            if newest is not None:
                self.answer(newest, accepted=False, reason=f"superseded by {model.number}")
            newest = checked
        return newest

    def answer(self, message: Advice | Lookahead | Model | CheckedModel, *, accepted: bool, reason: str = "") -> None:
        """Tell the daemon whether the engine follows its advice or uses its model."""
        of = "advice" if isinstance(message, Advice) else "lookahead" if isinstance(message, Lookahead) else "model"
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

    def _message(self, sequences: Sequence[int], accesses: Accesses, stats: StepStats) -> Step:
        known = [self.tables.sequence(number) for number in sequences]
        loaded, evicted = self.tables.take_changes()
        new, self._new_groups = self._new_groups, []
        return Step(
            epoch=self.epoch,
            sequences=list(sequences),
            stats=self._completed(stats),
            lengths=np.array([s.length for s in known], "<i4"),
            sequence_steps=np.array([s.steps - 1 for s in known], "<i4"),
            candidates=accesses.candidates,
            scores=accesses.scores,
            flags=accesses.flags,
            by_layer=accesses.by_layer,
            **{f"lookahead_{early}": ranks for early, ranks in accesses.lookahead.items()},
            new_sequence=np.array([sequence for sequence, _, _ in new], "<i8"),
            new_group=np.array([group for _, group, _ in new], "<i4"),
            new_generation=np.array([generation for _, _, generation in new], "<u4"),
            loaded=loaded,
            evicted=evicted,
        )

    def _completed(self, stats: StepStats) -> StepStats:
        demand, prefetch = self.tables.demand_pages, self.tables.prefetch_pages
        counts = {
            "demand_pages": demand,
            "prefetch_pages": prefetch,
            "moved_bytes": (demand + prefetch) * self.geometry.page_bytes,
            "free": self.geometry.slots - self.tables.count,
            "steps_dropped": self._link.counters.steps_dropped,
            "plans_applied": self.plans_applied,
            "entries_applied": self.entries_applied,
            "entries_rejected": dict(self.entries_rejected),
        }
        return stats.model_copy(update=counts)


def check_model(model: Model) -> CheckedModel:
    """Parse what was pushed. Raises ModelError, in the words of the `ack`, unless the bytes are what they should be."""
    data = model.forest.tobytes()
    if sha256(data) != model.sha256:
        raise ModelError("corrupt: the bytes do not have the hash that the message promises")
    if not data:
        return CheckedModel(model.number, "", None)
    forest = DeviceModel.from_bytes(data) if data.startswith(DEVICE_MAGIC) else FlatForest.from_bytes(data)
    return CheckedModel(model.number, model.version, forest)
