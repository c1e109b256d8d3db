"""The simulated hardware and how it is shared: link, compute, memory."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from hotset.ops.simulate.workload import Workload
from hotset.protos.errors import ConfigError
from hotset.protos.messages import Capacity, Geometry
from hotset.protos.trace import TraceMeta

GIB = 1 << 30
_BY_LAYER = ("link_latency_us", "lookahead_us", "lookahead_sequence_us", "lookahead_ktoken_us")
"""what each layer costs"""


class Node(BaseModel):
    """One accelerator and its decode process. Times are microseconds of virtual time.

    Where `layers`, `kv_heads` and `token_bytes` say what is served, recorded lanes stand for its lanes: `stand_for`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    concurrency: Annotated[int | None, Field(ge=1, description="sequences that may run at once")] = None
    ratio: Annotated[float | None, Field(ge=1, description="hot slots over k, per lane of `concurrency`")] = None
    slots: Annotated[int | None, Field(ge=1, description="hot slots; overrides ratio")] = None
    hbm_gib: Annotated[float | None, Field(gt=0, description="hot slots and running sequences together")] = None
    sequence_mib: Annotated[float | None, Field(ge=0, description="what a running sequence takes of it")] = None
    layers: Annotated[int | None, Field(ge=1, description="of the model served, if not the recorded one")] = None
    kv_heads: Annotated[int | None, Field(ge=1, description="of the model served")] = None
    token_bytes: Annotated[int | None, Field(ge=1, description="K and V of one token in one lane of it")] = None
    context: Annotated[int | None, Field(ge=1, description="tokens that a sequence takes memory for")] = None
    page_state_bytes: Annotated[int, Field(ge=0, description="of a page of a lane, wherever it is")] = 0
    link_gbps: Annotated[float, Field(gt=0, description="10^9 bytes a second")] = 50.0
    link_latency_us: Annotated[float, Field(ge=0, description="of a batch of transfers")] = 10.0
    step_us: Annotated[float, Field(ge=0, description="compute of a step, whatever the batch")] = 1200.0
    sequence_us: Annotated[float, Field(ge=0, description="compute that each sequence of the batch adds")] = 40.0
    ktoken_us: Annotated[float, Field(ge=0, description="and that each 1,024 tokens of `context` add to it")] = 0.0
    plan_delay_us: Annotated[float, Field(ge=0, description="from a step's event to its plan on the wire")] = 1000.0
    score_ns: Annotated[float | None, Field(ge=0, description="nanoseconds for the daemon to score a page")] = None
    lookahead_us: Annotated[float, Field(ge=0, description="compute that looking ahead adds for a layer")] = 15.0
    lookahead_sequence_us: Annotated[float, Field(ge=0, description="and for each sequence of the batch")] = 0.0
    lookahead_ktoken_us: Annotated[float, Field(ge=0, description="and for each 1,024 tokens of its context")] = 0.0
    builtin: Literal["margin-ema", "score-ema", "lru"] = "margin-ema"
    plan_lifetime: Annotated[int, Field(ge=1, description="steps that a plan's values outlive its epoch")] = 16

    @classmethod
    def checked(cls, **options: object) -> Node:
        """Build a node; raises ConfigError that lists every mistake on one line."""
        try:
            return cls.model_validate(options)
        except ValidationError as error:
            mistakes = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
            raise ConfigError(f"invalid options: {mistakes}") from None

    def compute_us(self, batch: int) -> float:
        """Compute of a step of `batch` sequences."""
        return self.step_us + (self.sequence_us + self.ktoken_us * self._ktokens) * batch

    def ahead_us(self, batch: int) -> float:
        """What a lookahead at one layer adds to a step of `batch` sequences."""
        return self.lookahead_us + batch * (self.lookahead_sequence_us + self.lookahead_ktoken_us * self._ktokens)

    @property
    def _ktokens(self) -> float:
        return (self.context or 0) / 1024

    def stand_for(self, meta: TraceMeta) -> tuple[TraceMeta, Node]:
        """Recordings whose lanes stand for those of the model served, and the node as they see it.

        A recorded page has the bytes of all the pages that it stands for, and a recorded layer waits and looks ahead as
        often as there are layers for it. Raises ConfigError if the model served is told in part.
        """
        told = (self.layers, self.kv_heads, self.token_bytes)
        if told == (None, None, None):
            return meta, self
        if self.layers is None or self.kv_heads is None or self.token_bytes is None:
            raise ConfigError("of the model served give layers, kv_heads and token_bytes, or none of them")
        lanes, times = self.layers * self.kv_heads / (meta.layers * meta.kv_heads), self.layers / meta.layers
        seen = {name: getattr(self, name) * times for name in _BY_LAYER}
        seen["page_state_bytes"] = round(self.page_state_bytes * lanes)
        return (
            meta.model_copy(update={"page_bytes": round(meta.page_size * self.token_bytes * lanes)}),
            self.model_copy(update={**seen, "layers": None, "kv_heads": None, "token_bytes": None}),
        )

    def wait_us(self, pages: int, page_bytes: int) -> float:
        """Time that attention waits for `pages` demand misses of a layer (docs/replay.md)."""
        return self.link_latency_us + pages * self.page_us(page_bytes) if pages else 0.0

    def carried(self, window_us: float, page_bytes: int) -> float:
        """Pages of prefetches that move while a layer computes for `window_us`."""
        return max(0.0, window_us - self.link_latency_us) / self.page_us(page_bytes)

    def page_us(self, page_bytes: int) -> float:
        """Time of one page on the link."""
        return page_bytes / (self.link_gbps * 1e3)


class Memory:
    """Who gets how much of the device: hot slots and running sequences. Pages are pages of one lane."""

    def __init__(self, node: Node, workload: Workload) -> None:
        """Raises ConfigError if not even one sequence fits."""
        meta, self._meta = workload.meta, workload.meta
        self.lanes = meta.layers * meta.kv_heads
        self.sequence_bytes, self.kv_bytes = _sequence_bytes(node, workload), _kv_bytes(node, workload)
        most = min(node.concurrency or len(workload.requests), len(workload.requests))
        everything = most * workload.longest_pages * self.lanes
        self.hbm_bytes = int(node.hbm_gib * GIB) if node.hbm_gib else 0
        given = node.slots
        if given is None and (node.ratio is not None or not self.hbm_bytes):
            given = round((node.ratio or 2.0) * meta.selected) * self.lanes * most
        if not self.hbm_bytes:
            assert given is not None
            self.hbm_bytes = min(given, everything) * meta.page_bytes + most * self.sequence_bytes
        self.most_slots = min(everything, *([given] if given else []), self.left_for_slots(1))
        self.max_sequences = self._most_that_fit(most)
        if self.max_sequences < 1:
            raise ConfigError(
                f"{max(self.most_slots, 0)} hot slots beside one sequence of {self.sequence_bytes} bytes: "
                f"{self.least_slots(1)} are the least; give more --slots, --ratio or --hbm-gib"
            )
        if given and self.left_for_slots(self.max_sequences) < given and node.hbm_gib and node.concurrency:
            # Slots and sequences that were both asked for must fit together.
            raise ConfigError(
                f"{given} hot slots and {most} sequences do not fit into {node.hbm_gib:g} GiB; lower one of them"
            )

    @property
    def whole_sequences(self) -> int:
        """Sequences that would fit with all their KV."""
        return self.hbm_bytes // (self.sequence_bytes + self.kv_bytes)

    def left_for_slots(self, sequences: int) -> int:
        """Slots that fit beside so many open sequences."""
        return (self.hbm_bytes - sequences * self.sequence_bytes) // self._meta.page_bytes

    def least_slots(self, sequences: int) -> int:
        """Slots below which so many cannot decode: their tails, and one selection per lane of a layer."""
        return sequences * (self.lanes + self._meta.kv_heads * self._meta.selected)

    def fits(self, sequences: int, keep: int) -> bool:
        """Whether so many can be open while the hot set keeps `keep` slots, or at least what it needs."""
        return min(self.most_slots, self.left_for_slots(sequences)) >= max(keep, self.least_slots(sequences))

    def _most_that_fit(self, most: int) -> int:
        return next((n for n in range(most, 0, -1) if self.fits(n, 0)), 0)

    def geometry(self, workload: Workload) -> Geometry:
        """What the engine says of itself."""
        meta: TraceMeta = workload.meta
        return Geometry(
            layers=meta.layers, kv_heads=meta.kv_heads, page_size=meta.page_size, selected=meta.selected,
            candidates=meta.candidates, page_bytes=meta.page_bytes, slots=self.most_slots,
            groups=self.max_sequences * workload.longest_pages,
        )  # fmt: skip

    def capacity(self) -> Capacity:
        """What advice has to fit into."""
        return Capacity(
            device="simulated", max_sequences=self.max_sequences, least_slots=self.least_slots(self.max_sequences),
            hbm_bytes=self.hbm_bytes, sequence_bytes=self.sequence_bytes,
        )  # fmt: skip


def _sequence_bytes(node: Node, workload: Workload) -> int:
    """By default the key bounds of its pages, as many bytes a page as K and V of one token, and their state."""
    if node.sequence_mib is not None:
        return int(node.sequence_mib * (1 << 20))
    meta = workload.meta
    return _pages(node, workload) * (meta.page_bytes // meta.page_size + node.page_state_bytes)


def _kv_bytes(node: Node, workload: Workload) -> int:
    return _pages(node, workload) * workload.meta.page_bytes


def _pages(node: Node, workload: Workload) -> int:
    """Of all lanes of a sequence of the `context`, by default of the longest one."""
    meta = workload.meta
    logical = -(-node.context // meta.page_size) if node.context else workload.longest_pages
    return logical * meta.layers * meta.kv_heads
