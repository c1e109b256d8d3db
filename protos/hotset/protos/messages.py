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

from enum import IntFlag
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, model_validator

from hotset.protos.arrays import ArraySpec, Rows2Int32, Rows2UInt8, array_specs

PROTOCOL_VERSION = 1

_Any = npt.NDArray[Any]
Pages = Annotated[_Any, ArraySpec("<i4", ("pages",))]
PageGenerations = Annotated[_Any, ArraySpec("<u4", ("pages",))]
Count = Annotated[int, Field(ge=0, lt=1 << 63)]
Text = Annotated[str, Field(max_length=4096)]
Name = Annotated[str, Field(max_length=256)]
Pid = Annotated[int, Field(ge=1, lt=1 << 31)]
Reasons = Annotated[dict[Name, Count], Field(max_length=256)]


class AccessFlag(IntFlag):
    """Bits of `Step.flags`, one byte a candidate."""

    SELECTED = 1
    HIT = 2
    PREFETCHED = 4
    """Selected, and resident only because a prefetch brought it in since its last use."""


class Frozen(BaseModel):
    """Immutable; unknown keys are ignored, so that newer peers may add some."""

    model_config = ConfigDict(frozen=True, extra="ignore", arbitrary_types_allowed=True)


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


class Geometry(Frozen):
    """Shape of the decoder and of its page pool; fixed for a session."""

    layers: int = Field(ge=1, le=4096)
    kv_heads: int = Field(ge=1, le=4096)
    page_size: int = Field(ge=1, le=1 << 20, description="tokens a page")
    selected: int = Field(ge=1, le=1 << 20, description="k, pages selected per lane and step")
    candidates: int = Field(ge=1, le=1 << 20, description="candidates reported per lane and step, at most 2k")
    page_bytes: int = Field(ge=1, description="K and V bytes of one page of one lane")
    slots: int = Field(ge=1, lt=1 << 31, description="pages that the hot pool holds")
    groups: int = Field(ge=1, lt=1 << 31, description="groups that the page table can address")

    @model_validator(mode="after")
    def _check_pages(self) -> Geometry:
        if self.groups * self.lanes >= 1 << 31:
            raise ValueError(f"{self.groups} groups of {self.lanes} lanes exceed 2**31 physical pages")
        return self

    @property
    def lanes(self) -> int:
        """Lanes of one sequence."""
        return self.layers * self.kv_heads


class Capacity(Frozen):
    """What advice has to fit into; 0 (or an empty name) where the runtime does not know."""

    device: Name = Field("", description="runtimes of one node that name the same device share its memory")
    max_sequences: Count = Field(0, description="sequences that can run at once")
    least_slots: Count = Field(0, description="hot slots below which max_sequences cannot decode")
    hbm_bytes: Count = Field(0, description="device memory for hot slots and running sequences together")
    sequence_bytes: Count = Field(0, description="of it, what a running sequence takes beside its hot pages")


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


class StepStats(Frozen):
    """Timing and movement of one step; what is marked cumulative counts since the session began."""

    step_us: Count = Field(0, description="microseconds that the step took")
    stall_us: Count = Field(0, description="microseconds of it that attention waited for movement")
    demand_pages: Count = Field(0, description="pages loaded on a demand miss in this step")
    prefetch_pages: Count = Field(0, description="pages that a prefetch made resident in this step")
    moved_bytes: Count = Field(0, description="bytes that this step moved over the host link")
    written_pages: Count = Field(0, description="pages that this step sealed and wrote through")
    waiting: Count = Field(0, description="requests that wait for admission")
    paused: Count = Field(0, description="sequences that hold their pages and did not run in this step")
    hot_slots: Count = Field(0, description="slots that the hot set may use now, 0 for all of the geometry's")
    reserve: Count = Field(0, description="slots in the reserve at the end of the step")
    free: Count = Field(0, description="slots that hold nothing")
    steps_dropped: Count = Field(0, description="step messages dropped at the high-water mark, cumulative")
    plans_applied: Count = Field(0, description="cumulative")
    entries_applied: Count = Field(0, description="cumulative")
    entries_rejected: Reasons = Field(default_factory=dict, description="by reason, cumulative")


class Step(Message):
    """Every access of one decode step of the whole batch.

    Rows are lanes: sequence-major in the order of `sequences`, then layer, then KV head. Candidates hold
    logical page numbers, padded with -1. A score is page attention mass m as `255 + 8*log2(m)`, clipped to
    0..255. `new_*` name groups that joined a sequence since the step before, in logical order; one that the
    sequence already has is to be ignored. `loaded` and `evicted` list physical pages that gained or lost
    their slot since the step before, by what holds now, so that each stands in one of them.
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

    @model_validator(mode="after")
    def _check_sequences(self) -> Step:
        if len(self.sequences) != len(self.lengths):
            raise ValueError(f"{len(self.sequences)} sequences, but {len(self.lengths)} lengths")
        return self


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
    """What became of a plan, advice or model. `rejected` counts entries by reason."""

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


class Model(Message):
    """A forest for scoring on the device: the bytes of `hotset.protos.forest`, checked by SHA-256."""

    type: Literal["model"] = "model"
    number: Count
    version: Name
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    forest: Annotated[_Any, ArraySpec("|u1", ("bytes",))]


class Detach(Message):
    """Stop receiving steps (`self`), or ask the runtime to take the lease from its holder (`controller`).

    The holder is told with the error code `revoked` and becomes an observer that may not attach again.
    """

    type: Literal["detach"] = "detach"
    target: Literal["self", "controller"] = "self"
    reason: Text = ""


RuntimeMessage = Hello | SequenceOpen | SequenceClose | Step | Snapshot | Ack | Error
DaemonMessage = Attach | SnapshotRequest | Heartbeat | Plan | Advice | Model | Detach
AnyMessage = RuntimeMessage | DaemonMessage

MESSAGES: dict[str, type[Message]] = {
    cls.model_fields["type"].default: cls
    for cls in (
        Hello, SequenceOpen, SequenceClose, Step, Snapshot, Ack, Error,
        Attach, SnapshotRequest, Heartbeat, Plan, Advice, Model, Detach,
    )
}  # fmt: skip
