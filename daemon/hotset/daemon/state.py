"""What a daemon knows of one decode process: its sequences, their page tables, and what is resident.

Fed with messages only. Everything that a runtime says is checked against its geometry, so that a broken one
ends its session with a ProtocolError instead of an index error.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from hotset.daemon.ingest import fault
from hotset.daemon.learners import ALONE, Learners
from hotset.daemon.room import Room
from hotset.daemon.sequence import LaneStep, SequenceState, table_bytes
from hotset.protos.errors import ConfigError, ProtocolError
from hotset.protos.messages import Geometry, SequenceClose, SequenceOpen, Snapshot, Step, StepStats

__all__ = ["LaneStep", "SequenceState", "SessionState"]

Int32 = npt.NDArray[np.int32]
Bool = npt.NDArray[np.bool_]

TABLE_BYTES = 1 << 30
_GROUP = 17
"""bytes of a group in the tables of a session: generation, owners, and what the advisor marks"""
_PAGE = 1
"""bytes of a page of a lane: whether it is resident"""
_CANDIDATE = 16
"""bytes of a candidate of a lane, in a step of one sequence and in its rows of the log"""


def fixed_bytes(geometry: Geometry) -> int:
    """Memory of a session's tables before it has a sequence."""
    tables = geometry.groups * (_GROUP + _PAGE * geometry.lanes)
    return tables + _CANDIDATE * geometry.lanes * geometry.candidates


class SessionState:
    """All sequences of one decode process.

    `resident` is [groups * lanes] bool, `generations` [groups] uint32. `synced` is False from a gap until the
    next snapshot: page tables may lack groups then, and `resident` may be wrong. `epoch` is the last step whose
    residency is known, `learned` the last that the features of all sequences have observed. What would take
    more than `tables` bytes is left to the runtime: sequences are refused as long as there is no room for theirs.
    """

    def __init__(
        self, geometry: Geometry, room: Room | None = None, tables: int = TABLE_BYTES, learners: Learners = ALONE
    ) -> None:
        """Raises ConfigError if already the tables of this geometry do not fit."""
        if (fixed := fixed_bytes(geometry)) > tables:
            raise ConfigError(
                f"tables of {geometry.groups} groups of {geometry.lanes} lanes take {fixed} bytes, and table_bytes is "
                f"{tables}; raise it to steer this process"
            )
        self.geometry = geometry
        self.refused = 0
        """sequences that had no room"""
        self._full = False
        self._left = tables - fixed
        self.room = room or Room()
        self.learners = learners
        self.sequences: dict[int, SequenceState] = {}
        self.resident: Bool = np.zeros(geometry.groups * geometry.lanes, np.bool_)
        self.generations: npt.NDArray[np.uint32] = np.zeros(geometry.groups, np.uint32)
        self.epoch = self.learned = 0
        self._last_step = -1
        self._owners: Int32 = np.zeros(geometry.groups, np.int32)
        self._shared = 0
        self.stats = StepStats()
        self.synced = False
        self.lanes_shed = 0
        """lanes of sequence steps that were not observed"""

    @property
    def lanes(self) -> int:
        """Lanes of all sequences."""
        return len(self.sequences) * self.geometry.lanes

    def open(self, message: SequenceOpen) -> None:
        """A sequence will decode."""
        self._check(message.groups, self.geometry.groups, "group")
        self._drop(message.sequence)
        self.generations[message.groups] = message.generations
        if not self._fits(len(message.groups)):
            return
        sequence = self.room.open(self.sequences, message.sequence, message.prompt_tokens, self.geometry)
        sequence.stepped_at = self.epoch
        sequence.set_groups(message.groups, message.generations)
        self._hold(sequence)

    def close(self, message: SequenceClose) -> None:
        """A sequence ended."""
        self._drop(message.sequence)

    def snapshot(self, message: Snapshot) -> None:
        """Take over the whole state; what was learned of known sequences is kept."""
        self._check(message.groups, self.geometry.groups, "group")
        self._check(message.resident, len(self.resident), "page")
        before, self.sequences = self.sequences, {}
        held = dict(before)
        self._left += sum(sequence.table_bytes for sequence in before.values())
        self._owners[:] = self._shared = 0
        self._full = False
        for i, number in enumerate(message.sequences):
            sequence = before.get(number)
            if not self._fits(int(message.offsets[i + 1] - message.offsets[i])):
                continue
            if sequence is None:
                sequence = self.room.open(held, number, int(message.prompt_tokens[i]), self.geometry)
                held[number] = sequence
            sequence.length = int(message.lengths[i])
            pages = slice(message.offsets[i], message.offsets[i + 1])
            sequence.set_groups(message.groups[pages], message.generations[pages])
            self._hold(sequence)
        self.generations[message.groups] = message.generations
        self.resident[:] = False
        self.resident[message.resident] = True
        self.epoch, self.synced = message.epoch, True

    def shares_groups(self) -> bool:
        """Whether any group belongs to two sequences."""
        return self._shared > 0

    def step(self, message: Step) -> list[LaneStep]:
        """`take` and `learn` all of one step."""
        parts = self.take(message)
        self.learn(parts, message.epoch)
        return parts

    def take(self, message: Step) -> list[LaneStep]:
        """Take over tables and residency of one step, which is quick; returns its parts by sequence, to be learned.

        A sequence never heard of makes `synced` False.
        """
        self._check_step(message)
        self._new_groups(message)
        self.resident[message.evicted] = False
        self.resident[message.loaded] = True
        self.epoch = self._last_step = message.epoch
        self.stats = message.stats
        return list(self._parts(message))

    def learn(self, parts: Sequence[LaneStep], epoch: int, share: float = 1.0) -> None:
        """All of `learning` at once."""
        for _ in self.learning(parts, epoch, share):
            pass

    def learning(
        self,
        parts: Sequence[LaneStep],
        epoch: int,
        share: float = 1.0,
        late: Callable[[], bool] = lambda: False,
    ) -> Iterator[int]:
        """Let the features observe a step that was taken, a sequence a learner and turn; yields how many lanes did.

        Of all lanes that is `share`, and none (but of the first turn) once it is `late`: whole sequences first, and the
        same from step to step, as far as they go on, whose features so stay whole. Whoever has ended meanwhile learns
        no more.
        """
        turn: list[tuple[LaneStep, int]] = []
        for part, watched in self._share_out(parts, share, late):
            suffices = not watched or self.room.suffices(part)
            if not suffices:
                # Room is made while nobody learns.
                yield from self._observe(turn)
            if not self.holds(part.sequence):
                continue
            part.sequence.stepped_at = epoch
            if watched and (suffices or self.room.admit(self.sequences, part)):
                turn.append((part, watched))
            else:
                part.sequence.observe(part, 0)
                self.lanes_shed += self.geometry.lanes
            if len(turn) == self.learners.threads:
                yield from self._observe(turn)
        yield from self._observe(turn)
        self.learned = max(self.learned, epoch)
        self.room.tidy(self.sequences, epoch)

    def _share_out(
        self, parts: Sequence[LaneStep], share: float, late: Callable[[], bool]
    ) -> Iterator[tuple[LaneStep, int]]:
        """Each part, and how many of its lanes are to be observed."""
        left = math.ceil(share * self.geometry.lanes * len(parts))
        for i, part in enumerate(sorted(parts, key=lambda part: _scattered(part.sequence.id))):
            watched = 0 if i and late() else min(left, self.geometry.lanes)
            left -= watched
            yield part, watched

    def _observe(self, turn: list[tuple[LaneStep, int]]) -> Iterator[int]:
        if turn:
            self.learners.observe(turn)
            seen = sum(watched for _, watched in turn)
            self.lanes_shed += len(turn) * self.geometry.lanes - seen
            turn.clear()
            yield seen

    def holds(self, sequence: SequenceState) -> bool:
        """Whether this very sequence goes on, as far as is known."""
        return self.sequences.get(sequence.id) is sequence

    def _parts(self, message: Step) -> Iterator[LaneStep]:
        lanes, lookahead = self.geometry.lanes, message.lookahead
        for i, number in enumerate(message.sequences):
            sequence = self.sequences.get(number)
            if sequence is None:
                # Of those that were refused nothing is known, and no snapshot would help.
                self.synced = self.synced and self._full
                continue
            rows = slice(i * lanes, (i + 1) * lanes)
            yield LaneStep(
                sequence,
                int(message.sequence_steps[i]),
                int(message.lengths[i]),
                message.candidates[rows],
                message.scores[rows],
                message.flags[rows],
                {early: ranks[rows] for early, ranks in lookahead.items()},
            )

    def _new_groups(self, message: Step) -> None:
        self.generations[message.new_group] = message.new_generation
        new = zip(
            message.new_sequence.tolist(), message.new_group.tolist(), message.new_generation.tolist(), strict=True
        )
        for number, group, generation in new:
            sequence = self.sequences.get(number)
            if sequence is None:
                continue
            before = sequence.table_bytes
            if sequence.add(group, generation):
                self._own(np.array([group], np.int32))
                self._left -= sequence.table_bytes - before
                if self._left < 0:
                    self._drop(number)
                    self._refuse()

    def _fits(self, pages: int) -> bool:
        """Whether there is room for one more sequence of so many pages; counted as refused if not."""
        if table_bytes(pages * 9 // 8, self.geometry.lanes) <= self._left:
            return True
        self._refuse()
        return False

    def _refuse(self) -> None:
        self.refused, self._full = self.refused + 1, True

    def _hold(self, sequence: SequenceState) -> None:
        self._own(sequence.groups)
        self._left -= sequence.table_bytes
        self.sequences[sequence.id] = sequence

    def _own(self, groups: Int32) -> None:
        self._owners[groups] += 1
        self._shared += int((self._owners[groups] == 2).sum())

    def _drop(self, number: int) -> None:
        sequence = self.sequences.pop(number, None)
        if sequence is not None:
            self._shared -= int((self._owners[sequence.groups] == 2).sum())
            self._owners[sequence.groups] -= 1
            self._left += sequence.table_bytes
            # The next snapshot may find room for those that were refused.
            self._full = False

    def _check_step(self, message: Step) -> None:
        rows, columns = message.candidates.shape
        if rows != len(message.sequences) * self.geometry.lanes or columns > self.geometry.candidates:
            raise ProtocolError(f"a step of {rows} x {columns} candidates does not fit the geometry")
        if len(set(message.sequences)) != len(message.sequences):
            raise ProtocolError("a step names a sequence twice")
        if message.epoch <= self._last_step:
            raise ProtocolError(f"step {message.epoch} after {self._last_step}")
        newest = np.minimum((message.lengths - 1) // self.geometry.page_size, self.geometry.groups - 1)
        if wrong := fault(message.candidates, message.flags, newest.astype(np.int32)):
            raise ProtocolError(f"step {message.epoch} {wrong}")
        for early, ranks in message.lookahead.items():
            beyond = ranks.max(axis=1) > np.repeat(newest, self.geometry.lanes)
            if ranks.min() < -1 or bool(beyond.any()):
                raise ProtocolError(f"step {message.epoch}: lookahead_{early} ranks a page outside its sequence")
        if len(message.by_layer) and message.by_layer.shape[1] != self.geometry.layers:
            raise ProtocolError(f"step {message.epoch} tells of {message.by_layer.shape[1]} layers")
        self._check(message.new_group, self.geometry.groups, "group")
        self._check(message.loaded, len(self.resident), "page")
        self._check(message.evicted, len(self.resident), "page")

    def _check(self, values: npt.NDArray[Any], end: int, what: str, least: int = 0) -> None:
        if values.size and not (least <= values.min() and values.max() < end):
            raise ProtocolError(f"the runtime names a {what} outside {least}..{end - 1}")


def _scattered(number: int) -> int:
    """Sequences in an order that has nothing to do with their age (Knuth's multiplicative hash)."""
    return number * 2654435761 % (1 << 32)
