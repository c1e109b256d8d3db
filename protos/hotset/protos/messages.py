"""Every message of the wire protocol, typed and bounded.

A message is a frozen pydantic model. Fields annotated with an `ArraySpec` travel as raw array frames, all
others in the MessagePack header. docs/protocol.md explains each message to implementers in other languages.

Addresses. A *group* is the physical pages that all lanes of a sequence hold for one logical page; lanes
seal together, so groups are what is allocated, reference-counted and shared between sequences. With
`lanes = layers * kv_heads` and `lane = layer * kv_heads + head`, the physical page of a lane is
`group * lanes + lane`. A group's generation grows each time the group is freed, which makes every older
mention of its pages stale.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from hotset.protos.arrays import ArraySpec, Rows2Int32, Rows2UInt8, array_specs
from hotset.protos.parts import (
    AccessFlag,
    Capacity,
    Count,
    Frozen,
    Geometry,
    InStep,
    LayerFigure,
    Name,
    Pid,
    Reasons,
    StepStats,
    Text,
)

__all__ = [
    "MESSAGES",
    "PROTOCOL_VERSION",
    "AccessFlag",
    "Ack",
    "Advice",
    "AnyMessage",
    "Attach",
    "Capacity",
    "DaemonMessage",
    "Detach",
    "Error",
    "Geometry",
    "Heartbeat",
    "Hello",
    "InStep",
    "LayerFigure",
    "Lookahead",
    "Message",
    "Model",
    "Plan",
    "RuntimeMessage",
    "SequenceClose",
    "SequenceOpen",
    "Snapshot",
    "SnapshotRequest",
    "Step",
    "StepStats",
]

PROTOCOL_VERSION = 1

_Any = npt.NDArray[Any]
Pages = Annotated[_Any, ArraySpec("<i4", ("pages",))]
PageGenerations = Annotated[_Any, ArraySpec("<u4", ("pages",))]


def _none() -> _Any:
    return np.empty((0, 0), "<i4")


class Message(Frozen):
    """Base of all messages. Array fields are checked for dtype, dimensions and size on construction."""

    arrays: ClassVar[dict[str, ArraySpec]] = {}

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        cls.arrays = array_specs(cls)

    @model_validator(mode="after")
    def _check_arrays(self) -> Message:
        bound: dict[str, int] = {}
        for name, spec in self.arrays.items():
            spec.check(name, getattr(self, name), bound)
        return self


class Hello(Message):
    """First message to every peer that attaches: who the runtime is and whether the peer holds the lease."""

    type: Literal["hello"] = "hello"
    protocol: int = PROTOCOL_VERSION
    session: Name
    pid: Pid
    model: Name
    geometry: Geometry
    epoch: Count
    builtin_policy: Name
    controller: bool = Field(description="true if the peer now holds the controller lease")
    lease_seconds: float = Field(gt=0, le=3600, description="a silent controller loses the lease after this long")
    holder: Name = Field("", description="`peer pid` of whoever holds the lease, empty if nobody does")
    sequences: Count = Field(0, description="sequences that are decoding now")
    capacity: Capacity = Capacity()
    in_step: InStep = InStep()


class SequenceOpen(Message):
    """A sequence finished prefill and will decode; `parent` names the sequence it was forked from.

    `groups[i]` holds logical page i; the last may be the tail. Groups that follow come in `Step.new_group`.
    """

    type: Literal["sequence_open"] = "sequence_open"
    sequence: Count
    prompt_tokens: Count
    parent: Count | None = None
    groups: Annotated[_Any, ArraySpec("<i4", ("pages",))]
    generations: PageGenerations


class SequenceClose(Message):
    """A sequence ended; its groups lose one reference."""

    type: Literal["sequence_close"] = "sequence_close"
    sequence: Count
    tokens: Count
    reason: Name


class Step(Message):
    """Every access of one decode step of the whole batch.

    Rows are lanes: sequence-major in the order of `sequences`, then layer, then KV head. Candidates hold
    logical page numbers, padded with -1. A score is page attention mass m as `255 + 8*log2(m)`, clipped to
    0..255. `new_*` name groups that joined a sequence since the step before, in logical order; one that the
    sequence already has is to be ignored. `loaded` and `evicted` list physical pages that gained or lost
    their slot since the step before, by what holds now, so that each stands in one of them. `lookahead_d` holds logical
    pages in rank order, best first, as a query estimated d layers early ranks them, padded with -1; a lane without
    such an estimate has -1 only, and an array without rows means that there is none. `by_layer` has a row for each
    LayerFigure; rows may be missing at its end and are 0 then.
    """

    type: Literal["step"] = "step"
    epoch: Count
    sequences: list[Count] = Field(max_length=1 << 16)
    stats: StepStats = StepStats()
    lengths: Annotated[_Any, ArraySpec("<i4", ("sequences",))]
    sequence_steps: Annotated[_Any, ArraySpec("<i4", ("sequences",))]
    candidates: Rows2Int32
    scores: Rows2UInt8
    flags: Rows2UInt8
    new_sequence: Annotated[_Any, ArraySpec("<i8", ("new",))]
    new_group: Annotated[_Any, ArraySpec("<i4", ("new",))]
    new_generation: Annotated[_Any, ArraySpec("<u4", ("new",))]
    loaded: Annotated[_Any, ArraySpec("<i4", ("loaded",))]
    evicted: Annotated[_Any, ArraySpec("<i4", ("evicted",))]
    lookahead_1: Annotated[_Any, ArraySpec("<i4", ("rows_1", "ranks_1"))] = Field(default_factory=_none)
    lookahead_2: Annotated[_Any, ArraySpec("<i4", ("rows_2", "ranks_2"))] = Field(default_factory=_none)
    by_layer: Annotated[_Any, ArraySpec("<i4", ("figures", "layers"))] = Field(default_factory=_none)

    @model_validator(mode="after")
    def _check_sequences(self) -> Step:
        if len(self.sequences) != len(self.lengths):
            raise ValueError(f"{len(self.sequences)} sequences, but {len(self.lengths)} lengths")
        return self

    @model_validator(mode="after")
    def _check_lookahead(self) -> Step:
        rows, candidates = self.candidates.shape
        for distance, ranks in self.lookahead.items():
            if len(ranks) != rows or ranks.shape[1] > candidates:
                raise ValueError(
                    f"lookahead_{distance}: {ranks.shape} ranks for {rows} rows of {candidates} candidates"
                )
        return self

    @property
    def lookahead(self) -> dict[int, npt.NDArray[np.int32]]:
        """Ranks by distance, of the distances that there are."""
        return {early: ranks for early, ranks in ((1, self.lookahead_1), (2, self.lookahead_2)) if ranks.size}

    def layer_figure(self, figure: LayerFigure) -> npt.NDArray[np.int32] | None:
        """One row of `by_layer`, [layers]; None where the runtime does not tell."""
        row: npt.NDArray[np.int32] | None = self.by_layer[figure] if figure < len(self.by_layer) else None
        return row


class Snapshot(Message):
    """The whole state that a daemon needs to start or to repair a gap: group tables and what is resident.

    The groups of `sequences[i]` are `groups[offsets[i]:offsets[i+1]]`, in logical order.
    """

    type: Literal["snapshot"] = "snapshot"
    epoch: Count
    sequences: list[Count] = Field(max_length=1 << 16)
    prompt_tokens: Annotated[_Any, ArraySpec("<i4", ("sequences",))]
    lengths: Annotated[_Any, ArraySpec("<i4", ("sequences",))]
    sequence_steps: Annotated[_Any, ArraySpec("<i4", ("sequences",))]
    offsets: Annotated[_Any, ArraySpec("<i4", ("offsets",))]
    groups: Annotated[_Any, ArraySpec("<i4", ("pages",))]
    generations: PageGenerations
    resident: Annotated[_Any, ArraySpec("<i4", ("resident",))]

    @model_validator(mode="after")
    def _check_offsets(self) -> Snapshot:
        n, off = len(self.sequences), self.offsets
        if not len(off) == n + 1 == len(self.lengths) + 1:
            raise ValueError(f"{n} sequences need {n + 1} offsets and {n} lengths")
        if off[0] != 0 or off[-1] != len(self.groups) or bool(np.any(np.diff(off) < 0)):
            raise ValueError("offsets must rise from 0 to the number of groups")
        return self


class Ack(Message):
    """What became of a plan, advice, lookahead or model. `rejected` counts entries by reason."""

    type: Literal["ack"] = "ack"
    of: Name
    number: Count
    accepted: bool
    applied: Count = 0
    rejected: Reasons = Field(default_factory=dict)
    reason: Text = ""


class Error(Message):
    """A peer broke the protocol or asked for what it may not have."""

    type: Literal["error"] = "error"
    code: Name
    reason: Text


class Attach(Message):
    """Ask for steps. One controller at a time holds the lease; observers only read."""

    type: Literal["attach"] = "attach"
    protocol: int = PROTOCOL_VERSION
    peer: Name
    pid: Pid
    role: Literal["controller", "observer"] = "controller"


class SnapshotRequest(Message):
    """Ask for a snapshot, after attaching late or seeing a gap in sequence numbers."""

    type: Literal["snapshot_request"] = "snapshot_request"


class Heartbeat(Message):
    """Keeps the lease while there is no plan to send; answered with an ack of `heartbeat`."""

    type: Literal["heartbeat"] = "heartbeat"


class Plan(Message):
    """Page values (log2 of predicted steps to next use; smaller is hotter) and pages to prefetch, best first.

    Made from the step `epoch`; worthless after step `deadline`. An entry whose generation is not the current
    one of its group is rejected and counted.
    """

    type: Literal["plan"] = "plan"
    number: Count
    epoch: Count
    deadline: Count
    source: Literal["heuristic", "learned"]
    model_version: Name = ""
    pages: Pages
    generations: PageGenerations
    values: Annotated[_Any, ArraySpec("<f4", ("pages",))]
    prefetch: Annotated[_Any, ArraySpec("<i4", ("prefetch",))]
    prefetch_generations: Annotated[_Any, ArraySpec("<u4", ("prefetch",))]

    @model_validator(mode="after")
    def _check_values(self) -> Plan:
        if not bool(np.isfinite(self.values).all()):
            raise ValueError("values must be finite")
        return self


class Advice(Message):
    """Slow steering: how many sequences to run and how soon to admit more, how many slots to keep hot, and why.

    `groups` names sequences to run together, best first, and `bytes_saved[i]` what a step of `groups[i]` then
    need not move, as expected. Each advice replaces the one before; what it leaves out is unlimited.
    """

    type: Literal["advice"] = "advice"
    number: Count
    concurrency: Annotated[int, Field(ge=1, le=1 << 16)] | None = None
    admit_every: Annotated[int, Field(ge=1, le=1 << 20)] | None = Field(None, description="steps between admissions")
    hot_slots: Annotated[int, Field(ge=1, lt=1 << 31)] | None = None
    groups: list[list[Count]] = Field(default_factory=list, max_length=1 << 12)
    bytes_saved: list[Count] = Field(default_factory=list, max_length=1 << 12)
    reason: Text = ""

    @model_validator(mode="after")
    def _check_groups(self) -> Advice:
        if self.bytes_saved and len(self.bytes_saved) != len(self.groups):
            raise ValueError(f"{len(self.groups)} groups, but {len(self.bytes_saved)} bytes_saved")
        return self


class Lookahead(Message):
    """Steering of the decisions inside the step, layer by layer; each replaces the one before.

    It holds for `steps` steps from when it is taken; after that, and where an entry has no opinion, the runtime's own
    safe values count. The runtime says in its `ack` whether it follows.
    """

    type: Literal["lookahead"] = "lookahead"
    number: Count
    steps: Annotated[int, Field(ge=1, le=1 << 20)] = 1024
    distance: Annotated[_Any, ArraySpec("|i1", ("layers",))]
    least: Annotated[_Any, ArraySpec("<f4", ("layers",))]
    pages: Annotated[_Any, ArraySpec("<i4", ("layers",))]
    reason: Text = ""

    @model_validator(mode="after")
    def _check_opinions(self) -> Lookahead:
        if bool(((self.distance < -1) | (self.distance > 2)).any()) or bool((self.pages < -1).any()):
            raise ValueError("distance must be -1 (no opinion), 0 (off), 1 or 2; pages -1 (no limit) or more")
        if bool(((self.least < 0) | (self.least > 1)).any()):
            raise ValueError("least must be a probability, or NaN for no opinion")
        return self


class Model(Message):
    """What the device scores by: the bytes of `hotset.protos.forest` or `device_model`, checked by SHA-256.

    It is in force once it is acknowledged as accepted; a model that is refused changes nothing. Stale is a number that
    does not exceed the last one of this connection, and, unless `rollback` says that it is meant, a model `trained`
    before the one in force.
    """

    type: Literal["model"] = "model"
    number: Count
    version: Name
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    trained: Count = Field(0, description="seconds since 1970 when its training began, 0 if unknown")
    rollback: bool = False
    forest: Annotated[_Any, ArraySpec("|u1", ("bytes",))]


class Detach(Message):
    """Stop receiving steps (`self`), or ask the runtime to take the lease from its holder (`controller`).

    The holder is told with the error code `revoked` and becomes an observer that may not attach again.
    """

    type: Literal["detach"] = "detach"
    target: Literal["self", "controller"] = "self"
    reason: Text = ""


RuntimeMessage = Hello | SequenceOpen | SequenceClose | Step | Snapshot | Ack | Error
DaemonMessage = Attach | SnapshotRequest | Heartbeat | Plan | Advice | Lookahead | Model | Detach
AnyMessage = RuntimeMessage | DaemonMessage

MESSAGES: dict[str, type[Message]] = {
    cls.model_fields["type"].default: cls
    for cls in (
        Hello, SequenceOpen, SequenceClose, Step, Snapshot, Ack, Error,
        Attach, SnapshotRequest, Heartbeat, Plan, Advice, Lookahead, Model, Detach,
    )
}  # fmt: skip
