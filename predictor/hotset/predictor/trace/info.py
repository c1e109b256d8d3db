"""What a trace log holds, in numbers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hotset.predictor.trace.reader import TraceReader
from hotset.predictor.trace.sequence import SequenceTrace
from hotset.protos.trace import TraceMeta


@dataclass(frozen=True)
class SequenceInfo:
    """One sequence of a log."""

    sequence: int
    prompt_tokens: int
    steps: int
    gaps: int
    """steps that were not recorded between the first and the last"""
    last_length: int
    pages: int
    accesses: int
    overlap: float | None
    """share of a lane's selection that was selected at the step before; None with a single step"""
    lookahead: tuple[int, ...]


@dataclass(frozen=True)
class TraceInfo:
    """A whole log."""

    path: str
    bytes_on_disk: int
    meta: TraceMeta
    sequences: list[SequenceInfo]


def trace_info(reader: TraceReader) -> TraceInfo:
    """Read a log through, one sequence at a time. Raises TraceError if any of it is corrupt."""
    meta = reader.meta
    size = sum(path.stat().st_size for path in reader.files)
    return TraceInfo(str(reader.path), size, meta, [_sequence_info(s, meta) for s in reader])


def _sequence_info(trace: SequenceTrace, meta: TraceMeta) -> SequenceInfo:
    length = int(trace.lengths[-1])
    return SequenceInfo(
        sequence=trace.sequence,
        prompt_tokens=trace.prompt_tokens,
        steps=len(trace.steps),
        gaps=int(trace.steps[-1] - trace.steps[0]) + 1 - len(trace.steps),
        last_length=length,
        pages=-(-length // meta.page_size),
        accesses=int(np.count_nonzero(trace.selected)),
        overlap=_overlap(trace),
        lookahead=tuple(trace.lookahead),
    )


def _overlap(trace: SequenceTrace) -> float | None:
    lanes, again, before = trace.pages.shape[1], 0, np.zeros((trace.pages.shape[1], trace.page_count), np.bool_)
    for step in range(len(trace.steps)):
        lane, candidate = np.nonzero(trace.selected[step])
        now = np.zeros((lanes, trace.page_count), np.bool_)
        now[lane, trace.pages[step, lane, candidate]] = True
        again += int(np.count_nonzero(now & before))
        before = now
    later = int(np.count_nonzero(trace.selected[1:]))
    return again / later if later else None
