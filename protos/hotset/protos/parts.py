"""What messages are made of: bounded numbers and texts, flags, and the maps inside a header."""

from __future__ import annotations

from enum import IntEnum, IntFlag
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, model_validator

Count = Annotated[int, Field(ge=0, lt=1 << 63)]
Text = Annotated[str, Field(max_length=4096)]
Name = Annotated[str, Field(max_length=256)]
Pid = Annotated[int, Field(ge=1, lt=1 << 31)]
Reasons = Annotated[dict[Name, Count], Field(max_length=256)]
Distance = Annotated[int, Field(ge=1, le=2)]
"""layers between the hidden state that a lookahead starts from and the layer that it is for"""


class AccessFlag(IntFlag):
    """Bits of `Step.flags`, one byte a candidate."""

    SELECTED = 1
    HIT = 2
    PREFETCHED = 4
    """Selected, and resident only because a prefetch brought it in since its last use."""


class LayerFigure(IntEnum):
    """Rows of `Step.by_layer`: pages of one lane, of the whole batch, in this step, by the layer they belong to."""

    DEMAND_PAGES = 0
    """Loaded on a miss."""
    PLAN_PAGES = 1
    """Prefetches begun for a plan."""
    STEP_PAGES = 2
    """Prefetches begun by a decision inside the step."""
    PLAN_USED = 3
    """Selected for the first time since a plan's prefetch brought them."""
    STEP_USED = 4
    """The same of prefetches inside a step."""
    PLAN_WASTED = 5
    """A plan's prefetches that lost their slot without a use, or came too late to be needed."""
    STEP_WASTED = 6
    """The same of prefetches inside a step."""
    COPY_STALL_US = 7
    """Attention waited for the copies of its own misses, microseconds."""
    LINK_STALL_US = 8
    """Attention waited for a prefetch that was on the link, microseconds."""
    HELD_PAGES = 9
    """Worth a prefetch inside the step, but beyond the movement budget or the room."""
    DISTANCE = 10
    """Lookahead distance in force, 0 for none."""
    LEAST = 11
    """Least probability of use in force for a prefetch inside the step, in 1/10000; above 10000 nothing pays."""


class Frozen(BaseModel):
    """Immutable; unknown keys are ignored, so that newer peers may add some."""

    model_config = ConfigDict(frozen=True, extra="ignore", arbitrary_types_allowed=True)


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


class InStep(Frozen):
    """What the runtime can decide inside a step; all empty where it cannot."""

    distances: list[Distance] = Field(default_factory=list, max_length=2, description="of lookaheads that it makes")
    ranks: Count = Field(0, description="pages that a lookahead ranks per lane")
    models: bool = Field(False, description="scores by a pushed model, see hotset.protos.device_model")
    value_features: Name = Field("", description="hash of the columns that the model's first head must be for")
    use_features: Name = Field("", description="hash of the columns that its second head must be for")


class StepStats(Frozen):
    """Timing and movement of one step; what is marked cumulative counts since the session began."""

    step_us: Count = Field(0, description="microseconds that the step took")
    stall_us: Count = Field(0, description="microseconds of it that attention waited for movement")
    plan_us: Count = Field(0, description="microseconds of it that went into taking over plans")
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
    device_model: Name = Field("", description="version of the model that decided inside the step, empty for none")
    warming: bool = Field(False, description="the runtime compiled or captured in this step what later ones only run")
