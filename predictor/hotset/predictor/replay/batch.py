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

    @property
    def lanes(self) -> int:
        return int(self.trace.pages.shape[1])


@dataclass(frozen=True)
class Batch:
    """Sequences that step together; each trace begins at epoch 0. All share the geometry of `meta`."""

    meta: TraceMeta
    members: list[Member]

    @property
    def epochs(self) -> int:
        """Steps of the batch."""
        return 1 + max(int(m.clock.epochs[-1]) for m in self.members)

    @property
    def page_count(self) -> int:
        return max(m.trace.page_count for m in self.members)

    @property
    def order(self) -> Int64:
        """[members * lanes] lanes (member-major numbers) in order of service: by layer, member, head."""
        layers, heads = self.meta.layers, self.meta.kv_heads
        return np.arange(len(self.members) * layers * heads).reshape(-1, layers, heads).transpose(1, 0, 2).ravel()

    def split(self) -> list[Batch]:
        """Each member as a batch of its own, clocks kept."""
        return [Batch(self.meta, [member]) for member in self.members]


def make_batch(traces: Sequence[Trace]) -> Batch:
    """All sequences of all traces as one batch. Raises PolicyError if they do not share a geometry."""
    if not traces or not any(trace.sequences for trace in traces):
        raise PolicyError("nothing to replay: no sequence in the traces given")
    meta = traces[0].meta
    for trace in traces:
        for key in _GEOMETRY:
            if getattr(trace.meta, key) != getattr(meta, key):
                raise PolicyError(
                    f"traces differ in {key} ({getattr(meta, key)} and {getattr(trace.meta, key)}); replay them apart"
                )
    starts = [min(int(s.epochs[0]) for s in trace.sequences) if trace.sequences else 0 for trace in traces]
    found = [(s, t, start) for t, start in zip(traces, starts, strict=True) for s in t.sequences]
    lanes, heads, total = meta.layers * meta.kv_heads, meta.kv_heads, len(found)
    members = []
    for number, (sequence, trace, start) in enumerate(found):
        epochs = sequence.epochs - start
        lane = np.arange(lanes)
        rank = (lane // heads) * (total * heads) + number * heads + lane % heads
        turns = epochs[:, None] * (lanes * total) + rank
        members.append(Member(sequence, trace.meta, Clock(epochs, turns)))
    return Batch(meta, members)
