"""A recorded sequence in memory, and the checks that every recorded sequence passes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import numpy.typing as npt

from hotset.protos.errors import TraceError
from hotset.protos.messages import AccessFlag
from hotset.protos.trace import TraceMeta

Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]
UInt8 = npt.NDArray[np.uint8]
Bool = npt.NDArray[np.bool_]

_KNOWN_FLAGS = int(AccessFlag.SELECTED | AccessFlag.HIT | AccessFlag.PREFETCHED)


@dataclass(frozen=True)
class SequenceTrace:
    """One sequence of a trace. lane = layer * kv_heads + head; n = candidates; r = ranks of a lookahead."""

    sequence: int
    prompt_tokens: int
    steps: Int32
    """[T] decode steps as recorded: rising, with gaps where a runtime dropped step messages."""
    lengths: Int32
    """[T] tokens, the new one included."""
    epochs: Int64
    """[T] steps of the whole batch."""
    pages: Int32
    """[T, lanes, n] logical pages of the candidates, -1 pad."""
    scores: UInt8
    """[T, lanes, n] page attention mass m as 255 + 8*log2(m), clipped to 0..255."""
    flags: UInt8
    """[T, lanes, n] bits of messages.AccessFlag."""
    lookahead: Mapping[int, Int32] = field(default_factory=dict)
    """Layers early -> [T, lanes, r] pages in rank order, -1 none. Empty if not recorded."""

    @cached_property
    def selected(self) -> Bool:
        """[T, lanes, n] which candidates were selected."""
        selected: Bool = np.not_equal(self.flags & int(AccessFlag.SELECTED), 0)
        return selected

    @property
    def page_count(self) -> int:
        """One more than the highest page that the sequence mentions."""
        highest = max([int(self.pages.max(initial=-1)), *(int(a.max(initial=-1)) for a in self.lookahead.values())])
        return highest + 1

    def head(self, steps: int) -> SequenceTrace:
        """The first `steps` recorded steps, as views."""
        cut = slice(0, steps)
        return SequenceTrace(
            self.sequence,
            self.prompt_tokens,
            self.steps[cut],
            self.lengths[cut],
            self.epochs[cut],
            self.pages[cut],
            self.scores[cut],
            self.flags[cut],
            {early: ranks[cut] for early, ranks in self.lookahead.items()},
        )


@dataclass(frozen=True)
class Trace:
    """A whole trace log in memory."""

    meta: TraceMeta
    sequences: list[SequenceTrace]

    @property
    def epochs(self) -> Int64:
        """Steps of the batch that the sequences hold, ascending."""
        return np.unique(np.concatenate([np.empty(0, np.int64), *(s.epochs for s in self.sequences)]))


def check_sequence(trace: SequenceTrace, meta: TraceMeta, source: object) -> None:
    """Raise TraceError, naming `source`, unless the sequence is one that a decode of `meta` can have recorded."""
    where = f"{source}: sequence {trace.sequence}"
    _check_clock(trace, where)
    last_page = (trace.lengths - 1) // meta.page_size
    _check_pages(trace.pages, last_page, f"{where}: candidates")
    for early, ranks in trace.lookahead.items():
        _check_pages(ranks, last_page, f"{where}: lookahead_{early}")
    selected = trace.selected
    if bool((trace.pages[selected] < 0).any()):
        raise TraceError(f"{where}: a padding entry is flagged as selected")
    most = int(np.count_nonzero(selected, axis=-1).max(initial=0))
    if most > meta.selected:
        raise TraceError(f"{where}: {most} pages selected in a lane and step, but metadata says {meta.selected}")
    if bool((trace.flags & ~np.uint8(_KNOWN_FLAGS)).any()):
        raise TraceError(f"{where}: flags hold unknown bits (known: {_KNOWN_FLAGS:#x})")


def _check_clock(trace: SequenceTrace, where: str) -> None:
    if trace.sequence < 0 or trace.prompt_tokens < 0:
        raise TraceError(f"{where}: negative sequence id or prompt length")
    if int(trace.steps[0]) < 0 or int(trace.epochs[0]) < 0 or int(trace.lengths[0]) < 1:
        raise TraceError(f"{where}: negative step or epoch, or a length below 1")
    if bool((np.diff(trace.epochs) <= 0).any()):
        raise TraceError(f"{where}: epochs do not rise with the steps")
    if bool((np.diff(trace.lengths) < 0).any()):
        raise TraceError(f"{where}: the length shrinks from one step to the next")


def _check_pages(pages: Int32, last_page: Int32, what: str) -> None:
    """`pages` [T, lanes, n] must be -1 or in 0..last_page[T], and distinct within a row."""
    if int(pages.min(initial=0)) < -1:
        raise TraceError(f"{what}: page {int(pages.min())} is negative")
    if bool((pages > last_page[:, None, None]).any()):
        step = int(np.argmax((pages > last_page[:, None, None]).any(axis=(1, 2))))
        raise TraceError(f"{what}: page {int(pages[step].max())} lies beyond the end of the sequence at row {step}")
    # Candidates usually come ascending; only rows that do not are sorted.
    doubtful = pages[((np.diff(pages, axis=-1) <= 0) & (pages[..., 1:] >= 0)).any(axis=-1)]
    ordered = np.sort(doubtful, axis=-1)
    if bool(((np.diff(ordered, axis=-1) == 0) & (ordered[..., 1:] >= 0)).any()):
        raise TraceError(f"{what}: a page is named twice in one lane and step")
