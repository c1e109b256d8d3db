"""What the wire speaks of, as an engine reports it: group tables, generations, who has a slot. Pure state."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from hotset.protos.messages import AccessFlag, Geometry, Plan, Snapshot

Int32 = npt.NDArray[np.int32]
UInt8 = npt.NDArray[np.uint8]
Bool = npt.NDArray[np.bool_]
Cause = Literal["demand", "prefetch", "prompt"]
NO_PAGES: Int32 = np.empty(0, np.int32)
NO_FIGURES: Int32 = np.empty((0, 0), np.int32)
KEPT_STEPS = 16
"""Steps whose uses are remembered; a plan made from an older one is refused."""
_HIT, _FIRST = np.uint8(AccessFlag.HIT), np.uint8(AccessFlag.PREFETCHED)
# Marks of a page: gained by demand in this step; gained by a prefetch and not used since; used since a plan was made.
_MISSED, _PREFETCHED, _USED = np.uint8(1), np.uint8(2), np.uint8(4)


class Accesses(NamedTuple):
    """What the lanes of a step looked at, [rows, n], n up to `geometry.candidates`.

    Rows are lanes: in the order of the step's sequences, then layer, then KV head. `candidates` are logical pages
    (int32, -1 pads); `scores` are page attention masses m as 255 + 8 log2(m), clipped to 0..255 (uint8);
    `flags` are `AccessFlag` bits (uint8). An engine that looks ahead adds, by `_replace`, the ranks that it acted on by
    distance, [rows, ranks] int32 with -1 pads, and its figures by layer, [len(LayerFigure), layers] int32.
    """

    candidates: Int32
    scores: UInt8
    flags: UInt8
    lookahead: Mapping[int, Int32] = {}
    by_layer: Int32 = NO_FIGURES


@dataclass
class OpenSequence:
    """A sequence that decodes. `groups[i]` holds logical page i."""

    number: int
    prompt_tokens: int
    length: int
    groups: list[int]
    steps: int = 0


class PageTables:
    """Sequences, groups and residency of one engine. Mistakes of the caller raise ValueError and change nothing."""

    def __init__(self, geometry: Geometry) -> None:
        self.geometry = geometry
        self.resident: Bool = np.zeros(geometry.groups * geometry.lanes, np.bool_)
        self.count = 0
        """Resident pages."""
        self.demand_pages = self.prefetch_pages = 0
        """Gained in this step."""
        self.generation: npt.NDArray[np.uint32] = np.zeros(geometry.groups, np.uint32)
        self._references: npt.NDArray[np.int32] = np.zeros(geometry.groups, np.int32)
        self._marks: UInt8 = np.zeros(len(self.resident), np.uint8)
        self._sequences: dict[int, OpenSequence] = {}
        self._missed: list[Int32] = []
        self._touched: list[Int32] = []
        self._uses: deque[tuple[int, Int32]] = deque(maxlen=KEPT_STEPS)

    def sequence(self, number: int) -> OpenSequence:
        """An open sequence."""
        if number not in self._sequences:
            raise ValueError(f"sequence {number} is not open")
        return self._sequences[number]

    def open(self, number: int, prompt_tokens: int, groups: npt.ArrayLike) -> Int32:
        """Start a sequence; returns its table as an array."""
        if number in self._sequences:
            raise ValueError(f"sequence {number} is open already")
        table = _checked(groups, self.geometry.groups, "group")
        np.add.at(self._references, table, 1)
        self._sequences[number] = OpenSequence(number, prompt_tokens, prompt_tokens, table.tolist())
        return table

    def add(self, number: int, group: int) -> None:
        """Append a group to a sequence."""
        (checked,) = _checked([group], self.geometry.groups, "group").tolist()
        self.sequence(number).groups.append(checked)
        self._references[checked] += 1

    def close(self, number: int) -> list[int]:
        """End a sequence; returns the groups that nobody holds any more. Their pages lose their slots."""
        table, lanes = np.array(self.sequence(number).groups, np.int32), self.geometry.lanes
        del self._sequences[number]
        np.subtract.at(self._references, table, 1)
        freed = np.unique(table[self._references[table] == 0])
        self.generation[freed] += 1
        self.lost((freed[:, None] * lanes + np.arange(lanes, dtype=np.int32)).ravel())
        groups: list[int] = freed.tolist()
        return groups

    def gained(self, pages: npt.ArrayLike, by: Cause) -> None:
        """Physical pages have a slot."""
        new = _checked(pages, len(self.resident), "page")
        new = np.unique(new[~self.resident[new]])
        self.resident[new] = True
        self.count += len(new)
        self._touched.append(new)
        if by == "demand":
            self._marks[new] = _MISSED
            self._missed.append(new)
            self.demand_pages += len(new)
        elif by == "prefetch":
            self._marks[new] = _PREFETCHED
            self.prefetch_pages += len(new)

    def lost(self, pages: npt.ArrayLike) -> None:
        """Physical pages have no slot."""
        gone = _checked(pages, len(self.resident), "page")
        gone = np.unique(gone[self.resident[gone]])
        self.resident[gone] = False
        self._marks[gone] = 0
        self.count -= len(gone)
        self._touched.append(gone)

    def physical(self, sequences: Sequence[int], candidates: Int32, selected: Bool) -> Int32:
        """Physical pages of the `selected` ones among `candidates` ([rows, n] both), row by row."""
        lanes, tables = self.geometry.lanes, [np.array(self.sequence(n).groups, np.int32) for n in sequences]
        if selected.shape != candidates.shape or len(candidates) != len(tables) * lanes:
            raise ValueError(f"{selected.shape} selected of {candidates.shape} candidates for {len(tables)} sequences")
        # Index arithmetic once a row, not once a page: a step may select a hundred thousand.
        counts, pages = np.count_nonzero(selected, axis=1), candidates[selected]
        lengths = np.array([len(table) for table in tables], np.int32)
        starts = (np.cumsum(lengths, dtype=np.int32) - lengths).repeat(lanes)
        if pages.size and (pages.min() < 0 or bool((pages >= lengths.repeat(lanes).repeat(counts)).any())):
            raise ValueError("a selected page lies beyond the groups of its sequence")
        groups = np.concatenate([NO_PAGES, *tables])[starts.repeat(counts) + pages]
        lane = np.tile(np.arange(lanes, dtype=np.int32), len(tables)).repeat(counts)
        physical: Int32 = groups * np.int32(lanes) + lane
        return physical

    def use(self, sequences: Sequence[int], candidates: Int32, selected: Bool, epoch: int) -> UInt8:
        """Mark the selected pages as used in step `epoch`; returns flags like `candidates`."""
        pages = self.physical(sequences, candidates, selected)
        marks = self._marks[pages]
        hit = self.resident[pages] & (marks & _MISSED == 0)
        flags = np.zeros(candidates.shape, np.uint8)
        flags[selected] = AccessFlag.SELECTED | hit * _HIT | (hit & (marks & _PREFETCHED != 0)) * _FIRST
        self._marks[pages] = marks & _MISSED
        self._uses.append((epoch, pages))
        return flags

    def end_step(self) -> None:
        """From here on misses and prefetches belong to the next step."""
        for pages in self._missed:
            self._marks[pages] &= ~_MISSED
        self._missed.clear()
        self.demand_pages = self.prefetch_pages = 0

    def take_changes(self) -> tuple[Int32, Int32]:
        """Pages that gained and that lost their slot since the last call, by what holds now: each stands in one."""
        touched = np.unique(np.concatenate([NO_PAGES, *self._touched]))
        self.forget_changes()
        held = self.resident[touched]
        return touched[held], touched[~held]

    def forget_changes(self) -> None:
        """Nobody needs to hear of the changes so far."""
        self._touched.clear()

    def remembers(self, epoch: int) -> bool:
        """Whether all uses since step `epoch` are known."""
        return len(self._uses) < KEPT_STEPS or self._uses[0][0] <= epoch + 1

    def sift(self, plan: Plan) -> tuple[Bool, Bool, Counter[str]]:
        """Which values and which prefetches of a plan hold now; the rest is counted by the first reason against it.

        Of pages that a plan names twice for prefetch the first counts.
        """
        rejected = Counter[str]()
        page, reasons = self._stale(plan.pages, plan.generations)
        reasons["not_resident"] = ~self.resident[page]
        reasons["superseded"] = self._used_since(plan.epoch, page)
        good = _sift(reasons, rejected)
        page, reasons = self._stale(plan.prefetch, plan.prefetch_generations)
        again = np.ones(len(page), np.bool_)
        again[np.unique(page, return_index=True)[1]] = False
        reasons["not_stored"] = self._references[page // self.geometry.lanes] == 0
        reasons["resident"] = self.resident[page]
        reasons["in_flight"] = again
        return good, _sift(reasons, rejected), rejected

    def snapshot(self, epoch: int) -> Snapshot:
        """All tables and all resident pages."""
        known = list(self._sequences.values())
        groups = np.concatenate([NO_PAGES, *(np.array(s.groups, np.int32) for s in known)])
        return Snapshot(
            epoch=epoch,
            sequences=[s.number for s in known],
            prompt_tokens=np.array([s.prompt_tokens for s in known], "<i4"),
            lengths=np.array([s.length for s in known], "<i4"),
            sequence_steps=np.array([s.steps for s in known], "<i4"),
            offsets=np.cumsum([0, *(len(s.groups) for s in known)]).astype("<i4"),
            groups=groups,
            generations=self.generation[groups],
            resident=np.flatnonzero(self.resident).astype("<i4"),
        )

    def check_integrity(self) -> None:
        """Raise AssertionError if tables, reference counts and residency contradict each other."""
        held = np.zeros_like(self._references)
        for sequence in self._sequences.values():
            np.add.at(held, sequence.groups, 1)
        assert bool((held == self._references).all()), "reference counts are not those of the tables"
        assert self.count == int(np.count_nonzero(self.resident)), "the count of resident pages is off"
        assert self.count <= self.geometry.slots, "more pages are resident than there are slots"
        assert not bool(((self._marks != 0) & ~self.resident).any()), "a page is marked that is not resident"
        owners = self._references[np.flatnonzero(self.resident) // self.geometry.lanes]
        assert bool((owners > 0).all()), "a page is resident whose group nobody holds"

    def _used_since(self, epoch: int, pages: Int32) -> Bool:
        since = [used for at, used in self._uses if at > epoch]
        for used in since:
            self._marks[used] |= _USED
        found: Bool = self._marks[pages] & _USED != 0
        for used in since:
            self._marks[used] &= ~_USED
        return found

    def _stale(self, pages: Int32, generations: npt.NDArray[np.uint32]) -> tuple[Int32, dict[str, Bool]]:
        inside = (pages >= 0) & (pages < len(self.resident))
        page = np.where(inside, pages, 0)
        current = self.generation[page // self.geometry.lanes] == generations
        return page, {"out_of_range": ~inside, "stale_generation": ~current}


def _sift(reasons: dict[str, Bool], rejected: Counter[str]) -> Bool:
    good = np.ones_like(reasons["out_of_range"])
    for reason, bad in reasons.items():
        if hits := int(np.count_nonzero(good & bad)):
            rejected[reason] += hits
        good &= ~bad
    return good


def _checked(values: npt.ArrayLike, end: int, what: str) -> Int32:
    array = np.asarray(values, np.int32).ravel()
    if array.size and not (array.min() >= 0 and array.max() < end):
        raise ValueError(f"a {what} lies outside 0..{end - 1}")
    return array
