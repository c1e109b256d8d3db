"""The sequences of a replay as one batch: which step of which sequence takes place when."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hotset.predictor.policies.base import Clock, PolicyError
from hotset.predictor.trace.sequence import Int64, SequenceTrace, Trace
from hotset.protos.trace import TraceMeta

_GEOMETRY = ("layers", "kv_heads", "page_size", "selected", "page_bytes")


@dataclass(frozen=True)
class Member:
    """One sequence of a batch."""

    trace: SequenceTrace
    meta: TraceMeta
    clock: Clock

    @classmethod
    def make(cls, trace: SequenceTrace, meta: TraceMeta, *, recorded: Int64, number: int = 0, total: int = 1) -> Member:
        """Member `number` of `total`; its clock counts the epochs that its trace has `recorded`."""
        heads = meta.kv_heads
        epochs, lane = np.searchsorted(recorded, trace.epochs), np.arange(meta.layers * heads)
        rank = (lane // heads) * (total * heads) + number * heads + lane % heads
        return cls(trace, meta, Clock(epochs, epochs[:, None] * (len(lane) * total) + rank))

    @property
    def lanes(self) -> int:
        """Lanes of the sequence."""
        return int(self.trace.pages.shape[1])


@dataclass(frozen=True)
class Batch:
    """Sequences that step together, each trace from epoch 0. All share the geometry of `meta`."""

    meta: TraceMeta
    members: list[Member]

    @property
    def epochs(self) -> int:
        """Steps of the batch."""
        return 1 + max(int(m.clock.epochs[-1]) for m in self.members)

    @property
    def page_count(self) -> int:
        """One more than the highest page of any member."""
        return max(m.trace.page_count for m in self.members)

    @property
    def order(self) -> Int64:
        """[members * lanes] lanes (member-major numbers) in order of service: by layer, member, head."""
        layers, heads = self.meta.layers, self.meta.kv_heads
        return np.arange(len(self.members) * layers * heads).reshape(-1, layers, heads).transpose(1, 0, 2).ravel()

    def split(self) -> list[Batch]:
        """Each member as a batch of its own, clocks kept."""
        return [Batch(self.meta, [member]) for member in self.members]


def same_geometry(metas: Sequence[TraceMeta]) -> None:
    """Raise PolicyError unless all describe the same lanes, pages and selection."""
    for meta in metas:
        for key in _GEOMETRY:
            mine, theirs = getattr(metas[0], key), getattr(meta, key)
            if mine != theirs:
                raise PolicyError(f"traces differ in {key} ({mine} and {theirs}); replay them apart")


def make_batch(traces: Sequence[Trace]) -> Batch:
    """All sequences of all traces as one batch. Raises PolicyError if they do not share a geometry."""
    same_geometry([trace.meta for trace in traces])
    found = [
        (sequence, trace.meta, epochs) for trace in traces for epochs in [trace.epochs] for sequence in trace.sequences
    ]
    if not found:
        raise PolicyError("nothing to replay: no sequence in the traces given")
    members = [
        Member.make(sequence, meta, recorded=recorded, number=number, total=len(found))
        for number, (sequence, meta, recorded) in enumerate(found)
    ]
    return Batch(traces[0].meta, members)
