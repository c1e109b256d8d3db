"""What a daemon knows of one decode process: its sequences, their page tables, and what is resident.

Fed with messages only. Everything that a runtime says is checked against its geometry, so that a broken one
ends its session with a ProtocolError instead of an index error.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from hotset.daemon.heat import Heat
from hotset.predictor.features import FeatureState
from hotset.protos.errors import ProtocolError
from hotset.protos.messages import (
    AccessFlag,
    Geometry,
    SequenceClose,
    SequenceOpen,
    Snapshot,
    Step,
    StepStats,
)

Int32 = npt.NDArray[np.int32]
UInt8 = npt.NDArray[np.uint8]
Bool = npt.NDArray[np.bool_]
_ALL_FLAGS = int(AccessFlag.SELECTED | AccessFlag.HIT | AccessFlag.PREFETCHED)


@dataclass(frozen=True)
class LaneStep:
    """The part of a step that belongs to one sequence; arrays are [lanes, candidates] views of the message."""

    sequence: SequenceState
    step: int
    length: int
    pages: Int32
    scores: UInt8
    flags: UInt8


class SequenceState:
    """Page table, score averages and features of one sequence."""

    def __init__(self, sequence: int, prompt_tokens: int, geometry: Geometry) -> None:
        self.id = sequence
        self.prompt_tokens = prompt_tokens
        self.length = prompt_tokens
        self.heat = Heat(geometry.lanes)
        self.features = FeatureState(
            layers=geometry.layers,
            kv_heads=geometry.kv_heads,
            page_size=geometry.page_size,
            selected=geometry.selected,
            pages=-(-max(1, prompt_tokens) // geometry.page_size),
        )
        self._groups: Int32 = np.empty(256, np.int32)
        self._known: set[int] = set()

    @property
    def groups(self) -> Int32:
        """Groups in logical order, the tail's included, [pages] int32."""
        return self._groups[: len(self._known)]

    def sealed(self, page_size: int) -> Int32:
        """Groups of full pages only."""
        return self.groups[: self.length // page_size]

    def add(self, group: int) -> None:
        """The next logical page is `group`; one that the sequence has is ignored."""
        if group in self._known:
            return
        count = len(self._known)
        if count == len(self._groups):
            self._groups = np.concatenate([self._groups, np.empty_like(self._groups)])
        self._groups[count] = group
        self._known.add(group)
        self.heat.grow(count + 1)

    def set_groups(self, groups: Int32) -> None:
        """Replace the page table."""
        self._known = set()
        for group in groups.tolist():
            self.add(group)

    def observe(self, part: LaneStep) -> None:
        """Learn from one step."""
        self.length = part.length
        self.heat.grow(int(part.pages.max(initial=-1)) + 1)
        selected = (part.flags & AccessFlag.SELECTED) != 0
        self.heat.observe(part.pages, part.scores, selected)
        self.features.observe(part.length, part.pages, part.scores, selected)


class SessionState:
    """All sequences of one decode process.

    `resident` is [groups * lanes] bool, `generations` [groups] uint32. `synced` is False from a gap until the
    next snapshot: page tables may lack groups then, and `resident` may be wrong.
    """

    def __init__(self, geometry: Geometry) -> None:
        self.geometry = geometry
        self.sequences: dict[int, SequenceState] = {}
        self.resident: Bool = np.zeros(geometry.groups * geometry.lanes, np.bool_)
        self.generations: npt.NDArray[np.uint32] = np.zeros(geometry.groups, np.uint32)
        self.epoch = 0
        self._last_step = -1
        self.stats = StepStats()
        self.synced = False

    def open(self, message: SequenceOpen) -> None:
        """A sequence will decode."""
        self._check(message.groups, self.geometry.groups, "group")
        sequence = SequenceState(message.sequence, message.prompt_tokens, self.geometry)
        sequence.set_groups(message.groups)
        self.generations[message.groups] = message.generations
        self.sequences[message.sequence] = sequence

    def close(self, message: SequenceClose) -> None:
        """A sequence ended."""
        self.sequences.pop(message.sequence, None)

    def snapshot(self, message: Snapshot) -> None:
        """Take over the whole state; what was learned of known sequences is kept."""
        self._check(message.groups, self.geometry.groups, "group")
        self._check(message.resident, len(self.resident), "page")
        before, self.sequences = self.sequences, {}
        for i, number in enumerate(message.sequences):
            sequence = before.get(number) or SequenceState(number, int(message.prompt_tokens[i]), self.geometry)
            sequence.length = int(message.lengths[i])
            sequence.set_groups(message.groups[message.offsets[i] : message.offsets[i + 1]])
            self.sequences[number] = sequence
        self.generations[message.groups] = message.generations
        self.resident[:] = False
        self.resident[message.resident] = True
        self.epoch, self.synced = message.epoch, True

    def shares_groups(self) -> bool:
        """Whether any group belongs to two sequences."""
        tables = [sequence.groups for sequence in self.sequences.values()]
        groups = np.concatenate(tables) if tables else np.empty(0, np.int32)
        return len(np.unique(groups)) < len(groups)

    def step(self, message: Step) -> list[LaneStep]:
        """Learn from one step; returns its parts by sequence. A sequence never heard of makes `synced` False."""
        self._check_step(message)
        self._new_groups(message)
        self.resident[message.evicted] = False
        self.resident[message.loaded] = True
        self.epoch = self._last_step = message.epoch
        self.stats = message.stats
        parts = list(self._parts(message))
        for part in parts:
            part.sequence.observe(part)
        return parts

    def _parts(self, message: Step) -> Iterator[LaneStep]:
        lanes = self.geometry.lanes
        for i, number in enumerate(message.sequences):
            sequence = self.sequences.get(number)
            if sequence is None:
                self.synced = False
                continue
            rows = slice(i * lanes, (i + 1) * lanes)
            yield LaneStep(
                sequence,
                int(message.sequence_steps[i]),
                int(message.lengths[i]),
                message.candidates[rows],
                message.scores[rows],
                message.flags[rows],
            )

    def _new_groups(self, message: Step) -> None:
        self.generations[message.new_group] = message.new_generation
        for number, group in zip(message.new_sequence.tolist(), message.new_group.tolist(), strict=True):
            sequence = self.sequences.get(number)
            if sequence is not None:
                sequence.add(group)

    def _check_step(self, message: Step) -> None:
        rows, columns = message.candidates.shape
        if rows != len(message.sequences) * self.geometry.lanes or columns > self.geometry.candidates:
            raise ProtocolError(f"a step of {rows} x {columns} candidates does not fit the geometry")
        if len(set(message.sequences)) != len(message.sequences):
            raise ProtocolError("a step names a sequence twice")
        if message.epoch <= self._last_step or int(message.flags.max(initial=0)) > _ALL_FLAGS:
            raise ProtocolError(f"step {message.epoch} after {self._last_step}, or with unknown flags")
        last = np.repeat((message.lengths - 1) // self.geometry.page_size, self.geometry.lanes)
        if columns and bool((message.candidates.max(axis=1) > last).any()):
            raise ProtocolError("a candidate lies beyond the end of its sequence")
        self._check(message.candidates, self.geometry.groups, "logical page", least=-1)
        self._check(message.new_group, self.geometry.groups, "group")
        self._check(message.loaded, len(self.resident), "page")
        self._check(message.evicted, len(self.resident), "page")

    def _check(self, values: npt.NDArray[Any], end: int, what: str, least: int = 0) -> None:
        if values.size and not (least <= values.min() and values.max() < end):
            raise ProtocolError(f"the runtime names a {what} outside {least}..{end - 1}")
