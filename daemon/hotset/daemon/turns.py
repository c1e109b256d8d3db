"""Who is scored when: the lanes of all sequences take turns, whole sequences where that is possible."""

from __future__ import annotations

from typing import Literal, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from hotset.daemon.config import PlanRules
from hotset.daemon.heat import BINS, cutoff, nominate
from hotset.daemon.sequence import SequenceState
from hotset.daemon.state import SessionState

Int32 = npt.NDArray[np.int32]
UInt32 = npt.NDArray[np.uint32]
Float32 = npt.NDArray[np.float32]
Bool = npt.NDArray[np.bool_]

NEAREST = 2.0
"""heuristic value up to which a page that is not resident is scored where not all are: it was close to selection"""
_ENOUGH = 4096
"""resident pages seen, from which on the first round knows a boundary"""


class Scorer(Protocol):
    """Predicts log2 of steps to next use for pages of one sequence."""

    @property
    def source(self) -> Literal["heuristic", "learned"]:
        """What a plan says it was made by."""

    @property
    def version(self) -> str:
        """The model's version, empty for a heuristic."""

    @property
    def prefetch_below(self) -> float:
        """Prefetch only what is predicted to be used within this many (log2) steps."""

    def values(self, sequence: SequenceState, lanes: Int32, pages: Int32) -> Float32:
        """Values of `pages` of `lanes`, all [m]; holds the sequence's lock while it reads its features."""


class Scored(NamedTuple):
    """Physical pages [m] with their generations and values, and which were resident.

    `epoch` is a step that all values have seen, `lanes` how many lanes had their turn.
    """

    pages: Int32
    generations: UInt32
    values: Float32
    resident: Bool
    epoch: int
    lanes: int

    @staticmethod
    def join(parts: list[Scored], epoch: int) -> Scored:
        """All of `parts`; nothing, as of `epoch`, if there are none."""
        if not parts:
            none = np.empty(0, np.int32)
            return Scored(none, none.astype(np.uint32), none.astype(np.float32), none.astype(np.bool_), epoch, 0)
        return Scored(
            np.concatenate([part.pages for part in parts]),
            np.concatenate([part.generations for part in parts]),
            np.concatenate([part.values for part in parts]),
            np.concatenate([part.resident for part in parts]),
            min(part.epoch for part in parts),
            sum(part.lanes for part in parts),
        )


class Turns:
    """Remembers whose turn it is. With `near` only pages close to the boundary of eviction are scored."""

    def __init__(self, *, near: bool = False) -> None:
        self.round_pages = 0
        """Pages that the last whole round nominated; 0 before it was over."""
        self._near = near
        self._sequence, self._lane = -1, 0
        self._pages_of_round = 0
        self._lanes_of_round = 0
        self._per_lane = 0.0
        self._coldest = -float("inf")
        self._histogram = np.zeros(BINS, np.int64)

    def score(self, state: SessionState, scorer: Scorer, rules: PlanRules, rows: int, lanes: int) -> list[Scored]:
        """Score about `rows` pages, at least one lane and at most `lanes`, from where the last call ended."""
        parts: list[Scored] = []
        left = rows
        order = sorted(state.sequences)
        while lanes > 0 and order and (left > 0 or not parts):
            sequence = state.sequences.get(self._whose(order))
            if sequence is None:
                # It has ended since we looked; another thread takes in what the runtime says.
                order.remove(self._sequence)
                self._lane = 0
                continue
            count = min(lanes, state.geometry.lanes - self._lane, self._lanes_for(left, state, sequence))
            part = self._score(state, sequence, scorer, rules, count)
            parts.append(part)
            left -= max(1, len(part.pages))
            lanes -= count
            self._advance(state, count, len(part.pages), rules.near)
        return parts

    def _whose(self, order: list[int]) -> int:
        """The sequence whose turn it is: the one under way, or the next if that is over or gone."""
        if self._sequence not in order or self._lane == 0:
            self._sequence = next((number for number in order if number > self._sequence), order[0])
            self._lane = 0
        return self._sequence

    def _lanes_for(self, rows: int, state: SessionState, sequence: SequenceState) -> int:
        shape = state.geometry
        expected = self._per_lane
        if not expected:
            full = sequence.length // shape.page_size
            expected = min(full, shape.slots / max(1, state.lanes) + shape.candidates)
        return max(1, int(rows / max(1.0, expected)))

    def _score(
        self, state: SessionState, sequence: SequenceState, scorer: Scorer, rules: PlanRules, count: int
    ) -> Scored:
        epoch = state.learned
        with sequence.lock:
            groups = sequence.sealed(state.geometry.page_size)
            lanes, pages, physical, resident = nominate(
                groups, state.resident, sequence.features.hot, sequence.features.steps - 1, sequence.blind,
                rules.recent, self._lane, count, self._coldest, NEAREST if self._near else float("inf"),
                self._histogram,
            )  # fmt: skip
            generations = sequence.generations[pages]
        values = scorer.values(sequence, lanes, pages)
        return Scored(physical, generations, values, resident, epoch, count)

    def _advance(self, state: SessionState, lanes: int, pages: int, near: float) -> None:
        self._lane = (self._lane + lanes) % state.geometry.lanes
        self._pages_of_round += pages
        self._lanes_of_round += lanes
        self._per_lane = pages / lanes if not self._per_lane else 0.9 * self._per_lane + 0.1 * pages / lanes
        if self._near and self._coldest == -float("inf") and self._histogram.sum() >= _ENOUGH:
            # The first round need not be over to know where the boundary lies, about.
            self._coldest = cutoff(self._histogram, near)
        if self._lanes_of_round >= state.lanes:
            self.round_pages, self._pages_of_round, self._lanes_of_round = self._pages_of_round, 0, 0
            if self._near:
                self._coldest = cutoff(self._histogram, near)
            self._histogram[:] = 0
