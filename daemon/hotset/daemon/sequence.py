"""What a daemon knows of one sequence: its page table, its features, and which of them can be trusted."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from hotset.predictor.features import FeatureState
from hotset.protos.messages import AccessFlag, Geometry

Int32 = npt.NDArray[np.int32]
UInt8 = npt.NDArray[np.uint8]
UInt32 = npt.NDArray[np.uint32]

SETTLE = 32
"""observed steps until what was missed no longer shows: 0.7**32 of an average"""
_GROWTH = 256
_OBJECTS = 8192
"""bytes of a sequence that knows nothing yet"""
_LANE = 36
"""bytes of a lane: where it is blind, its averages, and heat of one page"""


def table_bytes(pages: int, lanes: int) -> int:
    """Memory of a sequence with room for `pages` in its table, beside its features."""
    return _OBJECTS + 8 * max(pages, _GROWTH) + _LANE * lanes


@dataclass(frozen=True)
class LaneStep:
    """The part of a step that belongs to one sequence; arrays are [lanes, candidates] views of the message."""

    sequence: SequenceState
    step: int
    length: int
    pages: Int32
    scores: UInt8
    flags: UInt8
    lookahead: Mapping[int, Int32] = field(default_factory=dict)
    """[lanes, ranks] by distance"""


class SequenceState:
    """Page table and features. Whoever reads or writes `features` holds `lock`: a scorer may run on its own thread."""

    def __init__(
        self, sequence: int, prompt_tokens: int, geometry: Geometry, *, pages: int | None = None, compact: bool = False
    ) -> None:
        self.id = sequence
        self.prompt_tokens = prompt_tokens
        self.length = prompt_tokens
        self.lock = threading.Lock()
        self.features = FeatureState(
            layers=geometry.layers,
            kv_heads=geometry.kv_heads,
            page_size=geometry.page_size,
            selected=geometry.selected,
            pages=-(-max(1, prompt_tokens) // geometry.page_size) if pages is None else pages,
            compact=compact,
        )
        self.stepped_at = 0
        """epoch of its last step"""
        self.blind: Int32 = np.zeros(geometry.lanes, np.int32)
        """[lanes] observed step until which nothing is said of a lane, as part of what it did was not seen"""
        self._plain = 0
        self._groups: Int32 = np.empty(_GROWTH, np.int32)
        self._generations: UInt32 = np.empty(_GROWTH, np.uint32)
        self._pages = 0

    @property
    def groups(self) -> Int32:
        """Groups in logical order, the tail's included, [pages] int32."""
        return self._groups[: self._pages]

    @property
    def generations(self) -> UInt32:
        """Of each group, when the sequence got it, [pages] uint32."""
        return self._generations[: self._pages]

    @property
    def has_features(self) -> bool:
        """Whether a model may judge by the features: they are kept, of all lanes, and have been for SETTLE steps."""
        return not self.features.is_compact and self.features.steps >= self._plain

    def sealed(self, page_size: int) -> Int32:
        """Groups of full pages only."""
        return self.groups[: self.length // page_size]

    def add(self, group: int, generation: int) -> bool:
        """The next logical page is `group`; False, and nothing done, if the sequence has it."""
        if bool((self.groups == group).any()):
            return False
        if self._pages == len(self._groups):
            self._groups = np.concatenate([self._groups, np.empty_like(self._groups)])
            self._generations = np.concatenate([self._generations, np.empty_like(self._generations)])
        self._groups[self._pages], self._generations[self._pages] = group, generation
        self._pages += 1
        return True

    def set_groups(self, groups: Int32, generations: UInt32) -> None:
        """Replace the page table; of a group that stands in it twice the first counts."""
        first = np.sort(np.unique(groups, return_index=True)[1])
        self._pages = len(first)
        room = max(_GROWTH, self._pages * 9 // 8)
        self._groups, self._generations = np.empty(room, np.int32), np.empty(room, np.uint32)
        self._groups[: self._pages], self._generations[: self._pages] = groups[first], generations[first]

    @property
    def table_bytes(self) -> int:
        """Memory beside the features, about."""
        return table_bytes(len(self._groups), len(self.blind))

    def observe(self, part: LaneStep, watched: int) -> None:
        """Learn what the first `watched` lanes did in a step."""
        with self.lock:
            self.length = part.length
            if watched:
                selected = (part.flags[:watched] & AccessFlag.SELECTED) != 0
                self.features.observe(part.length, part.pages[:watched], part.scores[:watched], selected)
            if watched < len(self.blind):
                self.blind[watched:] = self._plain = self.features.steps + SETTLE

    def compact(self) -> None:
        """Keep no more than heat."""
        with self.lock:
            self.features.compact()

    def expand(self) -> None:
        """Keep features (again); a model waits until they have settled, if something was missed."""
        with self.lock:
            self.features.expand()
            if self.features.steps:
                self._plain = self.features.steps + SETTLE
