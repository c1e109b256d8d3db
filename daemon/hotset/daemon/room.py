"""How much memory the features of one session may take, and who gives way when it is full.

Idle sequences are compacted: they keep heat (16 bytes a page of a lane) and lose features. When a sequence that
steps needs room, the others give way, the longest idle first; then it does without features itself; what does
not fit even so is not observed. The bound holds at every moment, copies made while growing included.
"""

from __future__ import annotations

from collections.abc import Mapping

from hotset.daemon.sequence import LaneStep, SequenceState
from hotset.protos.messages import Geometry

STATE_BYTES = 8 << 30
IDLE_STEPS = 512
_TIDY_EVERY = 32


class Room:
    """`limit` bytes at most for the features of all sequences; compacts those that rest for `idle_steps`."""

    def __init__(self, limit: int = STATE_BYTES, idle_steps: int = IDLE_STEPS) -> None:
        self.limit = limit
        self.idle_steps = idle_steps
        self.compactions = 0
        self._tidied = 0
        self._most = 0
        """Bytes that all features hold at most: what was counted last, and what was allowed since."""

    def used(self, sequences: Mapping[int, SequenceState]) -> int:
        """Bytes that the features of `sequences` hold now."""
        return sum(s.features.nbytes for s in list(sequences.values()))

    def open(
        self, sequences: Mapping[int, SequenceState], number: int, prompt_tokens: int, geometry: Geometry
    ) -> SequenceState:
        """A new sequence beside those that are held: compact if there is room, else empty; `admit` makes it whole.

        A snapshot opens all sequences at once, and writing the memory of whole ones would hold up every plan meanwhile.
        """
        made = SequenceState(number, prompt_tokens, geometry, pages=1, compact=True)
        pages = -(-max(1, prompt_tokens) // geometry.page_size)
        if self._make(sequences, None, made.features.bytes_of(pages, compact=True), spare=0):
            return SequenceState(number, prompt_tokens, geometry, compact=True)
        self._most += made.features.nbytes
        return made

    def suffices(self, part: LaneStep) -> bool:
        """Whether a step can be observed as things stand; False if its sequence is compact or would grow."""
        features = part.sequence.features
        return not features.is_compact and features.room_for(_pages_of(part)) == features.pages

    def admit(self, sequences: Mapping[int, SequenceState], part: LaneStep) -> bool:
        """Make room for what a step needs of its sequence; False if it may not be observed."""
        sequence, features = part.sequence, part.sequence.features
        room = features.room_for(_pages_of(part))
        if features.is_compact:
            wanted = features.bytes_of(room, compact=False) - features.nbytes
            if self._make(sequences, sequence, wanted, spare=self.idle_steps if features.steps else 0):
                sequence.expand()
        if room == features.pages:
            return True
        if self._make(sequences, sequence, features.bytes_of(room, compact=features.is_compact), spare=0):
            return True
        if not features.is_compact:
            sequence.compact()
            self.compactions += 1
        return self._make(sequences, sequence, features.bytes_of(room, compact=True), spare=0)

    def tidy(self, sequences: Mapping[int, SequenceState], epoch: int) -> None:
        """Compact who has not stepped for long, now and then."""
        if 0 <= epoch - self._tidied < _TIDY_EVERY:
            return
        self._tidied = epoch
        for sequence in list(sequences.values()):
            if epoch - sequence.stepped_at > self.idle_steps and not sequence.features.is_compact:
                sequence.compact()
                self.compactions += 1

    def _make(
        self, sequences: Mapping[int, SequenceState], for_whom: SequenceState | None, wanted: int, spare: int
    ) -> bool:
        """Have `wanted` more bytes below the limit, compacting others that rest for more than `spare` steps."""
        if self._most + wanted > self.limit:
            # Counted sequence by sequence only where there is need.
            self._most = self.used(sequences)
        free = self.limit - self._most
        if free >= wanted:
            self._most += wanted
            return True
        newest = max((s.stepped_at for s in sequences.values()), default=0)
        resting = [
            s for s in sequences.values()
            if s is not for_whom and not s.features.is_compact and newest - s.stepped_at > spare
        ]  # fmt: skip
        gain = {s.id: s.features.nbytes - s.features.bytes_of(s.features.pages, compact=True) for s in resting}
        if free + sum(gain.values()) < wanted:
            return False
        for sequence in sorted(resting, key=lambda s: s.stepped_at):
            if free >= wanted:
                break
            sequence.compact()
            self.compactions += 1
            free += gain[sequence.id]
        self._most += wanted
        return True

    def check_integrity(self, sequences: Mapping[int, SequenceState]) -> None:
        """Raises AssertionError if more is held than was allowed."""
        assert self.used(sequences) <= self._most, f"{self.used(sequences)} bytes are held, {self._most} were allowed"


def _pages_of(part: LaneStep) -> int:
    """How many logical pages its sequence has, by its length and by what the step names."""
    return max(int(part.pages.max(initial=0)) + 1, -(-part.length // part.sequence.features.page_size))
