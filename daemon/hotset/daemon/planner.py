"""From state to plan, as pure functions: who is worth scoring, what they are worth, and what to prefetch.

A plan holds one value for every resident full page, and the pages to fetch that pay for the page they push
out. One currency throughout: log2 of the predicted steps to the next use, smaller is hotter.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

from hotset.daemon.config import PlanRules
from hotset.daemon.heat import nominate
from hotset.daemon.state import SequenceState, SessionState
from hotset.protos.messages import Plan

Int32 = npt.NDArray[np.int32]
Float32 = npt.NDArray[np.float32]
Bool = npt.NDArray[np.bool_]


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
        """Values of `pages` of `lanes`, all [m]."""


@dataclass(frozen=True)
class Scored:
    """Physical pages [m] with their values, and which of them are resident."""

    pages: Int32
    values: Float32
    resident: Bool


class Planner:
    """Makes plans for one session; numbers them, and remembers which lanes have their turn."""

    def __init__(self, rules: PlanRules) -> None:
        self.rules = rules
        self.number = 0
        self.scored = 0
        """Pages that the last plan scored."""
        self.scored_share = 1.0
        """Share of the lanes that it scored."""
        self._lane = 0

    def plan(self, state: SessionState, scorer: Scorer, prefetch_pages: int, rows: int | None = None) -> Plan:
        """The plan for `state` as of its last step, with at most `prefetch_pages` pages to prefetch.

        Scores about `rows` pages: whole lanes, at least one, in turn from plan to plan.
        """
        lanes = self._turn(state, self.rules.rows if rows is None else rows)
        scored = score(state, scorer, self.rules.recent, self._lane, lanes)
        self.scored, self.scored_share = len(scored.pages), min(1.0, lanes / state.geometry.lanes)
        self._lane = (self._lane + lanes) % state.geometry.lanes
        # A lane that waits for its turn must not lose its values before it comes.
        turns = -(-state.geometry.lanes // lanes)
        self.number += 1
        return make_plan(state, scorer, scored, self.number, prefetch_pages, self.rules, turns)

    def _turn(self, state: SessionState, rows: int) -> int:
        """How many lanes to score now, so that the pages to look at stay within `rows`."""
        shape = state.geometry
        full = sum(s.length // shape.page_size for s in state.sequences.values()) * shape.lanes
        seen = len(state.sequences) * shape.candidates * shape.lanes
        expected = min(full, shape.slots + seen)
        return max(1, min(shape.lanes, shape.lanes * rows // max(1, expected)))


def score(state: SessionState, scorer: Scorer, recent: int, first: int, count: int) -> Scored:
    """Value the resident and the recently seen full pages of `count` lanes from `first` on, all sequences."""
    parts = [_score_one(state, s, scorer, recent, first, count) for s in state.sequences.values()]
    if not parts:
        return Scored(np.empty(0, np.int32), np.empty(0, np.float32), np.empty(0, np.bool_))
    pages, values, resident = (np.concatenate(column) for column in zip(*parts, strict=True))
    scored = Scored(pages, values, resident)
    return _hottest_owner(scored) if state.shares_groups() else scored


def _score_one(
    state: SessionState, sequence: SequenceState, scorer: Scorer, recent: int, first: int, count: int
) -> tuple[Int32, Float32, Bool]:
    heat = sequence.heat
    since = heat.now - recent + 1
    groups = sequence.sealed(state.geometry.page_size)
    lanes, pages, physical, resident = nominate(groups, state.resident, heat.seen, since, first, count)
    return physical, scorer.values(sequence, lanes, pages), resident


def _hottest_owner(scored: Scored) -> Scored:
    """A page that sequences share is worth what it is worth to the one that needs it first."""
    order = np.lexsort((scored.values, scored.pages))
    pages = scored.pages[order]
    first = np.ones(len(pages), np.bool_)
    first[1:] = pages[1:] != pages[:-1]
    keep = order[first]
    return Scored(scored.pages[keep], scored.values[keep], scored.resident[keep])


def choose_prefetch(values: Float32, resident: Bool, limit: int, margin: float, below: float) -> Int32:
    """Indices of pages to fetch, best first: each must beat the page that it pushes out by `margin`.

    The i-th best page outside is set against the i-th worst inside, as the reclaimer would take them.
    """
    outside = np.flatnonzero(~resident & (values < below))
    inside = values[resident]
    limit = min(limit, len(outside), len(inside))
    if limit <= 0:
        return np.empty(0, np.int32)
    best = outside[_smallest(values[outside], limit)]
    worst = -np.sort(np.partition(-inside, limit - 1)[:limit])
    pays = values[best] + margin < worst
    # Both lists are sorted, so what pays comes first.
    return best[: int(pays.sum())].astype(np.int32)


def _smallest(values: Float32, count: int) -> Int32:
    """Indices of the `count` smallest values, smallest first, equals in their order."""
    limit = np.partition(values, count - 1)[count - 1]
    few = np.flatnonzero(values <= limit)
    return few[np.argsort(values[few], kind="stable")[:count]].astype(np.int32)


def make_plan(
    state: SessionState,
    scorer: Scorer,
    scored: Scored,
    number: int,
    prefetch_pages: int,
    rules: PlanRules,
    turns: int = 1,
) -> Plan:
    """Address values and prefetches by physical page and generation, as of the state's epoch."""
    lanes = state.geometry.lanes
    chosen = choose_prefetch(scored.values, scored.resident, prefetch_pages, rules.margin, scorer.prefetch_below)
    pages, prefetch = scored.pages[scored.resident], scored.pages[chosen]
    return Plan(
        number=number,
        epoch=state.epoch,
        deadline=state.epoch + rules.horizon + turns - 1,
        source=scorer.source,
        model_version=scorer.version,
        pages=pages,
        generations=state.generations[pages // lanes],
        values=scored.values[scored.resident],
        prefetch=prefetch,
        prefetch_generations=state.generations[prefetch // lanes],
    )
