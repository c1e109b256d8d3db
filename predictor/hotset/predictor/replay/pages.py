"""Page-at-a-time replay: the classic cache simulation, to compare policies with other implementations."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hotset.predictor.replay.batch import make_batch
from hotset.predictor.replay.run import count
from hotset.predictor.trace.sequence import Bool, Int32, SequenceTrace, Trace
from hotset.protos.messages import AccessFlag
from hotset.protos.trace import TraceMeta


def replay_pages(pages: Sequence[int] | Int32, policy: str, slots: int, *, seed: int = 0) -> Bool:
    """Demand one page after another from one pool of `slots`; [m], which demands missed, the first one too.

    The same code as any replay: one lane, k = 1, a step for each demand.
    """
    batch = make_batch([page_trace(pages)])
    counts = count(batch, policy, ratio=slots, pool="lane", seed=seed).counts
    missed = counts.demand[:, 0] > 0
    missed[0] = True
    return missed


def page_trace(pages: Sequence[int] | Int32) -> Trace:
    """A trace of one lane that selects pages[t] at step t, its only candidate, with score 128."""
    demanded = np.asarray(pages, np.int32).reshape(-1, 1, 1)
    steps = np.arange(len(demanded))
    meta = TraceMeta(
        model="", layers=1, kv_heads=1, page_size=1, selected=1, candidates=1, page_bytes=1, source="pages"
    )
    sequence = SequenceTrace(
        sequence=0,
        prompt_tokens=0,
        steps=steps.astype(np.int32),
        lengths=np.full(len(steps), int(demanded.max()) + 1, np.int32),
        epochs=steps,
        pages=demanded,
        scores=np.full(demanded.shape, 128, np.uint8),
        flags=np.full(demanded.shape, int(AccessFlag.SELECTED), np.uint8),
    )
    return Trace(meta, [sequence])
