"""From scored pages to plan, as pure functions: what is still so, and what to prefetch.

A plan holds values of resident full pages, and the pages to fetch that pay for the page they push out. One
currency throughout: log2 of the predicted steps to the next use, smaller is hotter, and more probably used before
the fetch has to pay.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from numba import njit

from hotset.daemon.config import PlanRules
from hotset.daemon.state import SessionState
from hotset.daemon.turns import Scored, Scorer, Turns
from hotset.protos.messages import Plan

__all__ = ["PlanRules", "Planner", "Scored", "Scorer"]

Int32 = npt.NDArray[np.int32]
UInt32 = npt.NDArray[np.uint32]
Float32 = npt.NDArray[np.float32]
Bool = npt.NDArray[np.bool_]


class Planner:
    """Makes plans for one session and numbers them."""

    def __init__(self, rules: PlanRules) -> None:
        self.rules = rules
        self.number = 0
        self.scored = 0
        """Pages that the last plan scored."""
        self.scored_share = 0.0
        """Share of all lanes that had their turn in the last plan."""
        self.turns = Turns()

    def plan(
        self, state: SessionState, scorer: Scorer, prefetch_pages: int, rows: int | None = None, *, least: int = 1
    ) -> Plan:
        """The plan for `state` as of its last step, with `least` to `prefetch_pages` pages to prefetch, or none.

        Scores about `rows` pages: whole lanes, at least one, in turn from plan to plan.
        """
        rows = self.rules.rows if rows is None else rows
        parts = self.turns.score(state, scorer, self.rules, rows, state.lanes)
        return self.make(state, scorer, parts, prefetch_pages, least=least)

    def make(
        self, state: SessionState, scorer: Scorer, parts: list[Scored], prefetch_pages: int, *, least: int = 1
    ) -> Plan:
        """The plan that says what was scored, maybe some steps ago, as far as it still holds; see `plan`."""
        oldest = state.epoch - self.rules.horizon
        scored = Scored.join([part for part in parts if part.epoch > oldest], state.epoch)
        self.scored, self.scored_share = len(scored.pages), min(1.0, scored.lanes / max(1, state.lanes))
        # A lane that waits for its turn must not lose its values before it comes.
        turns = -(-state.lanes // scored.lanes) if scored.lanes else 1
        if state.shares_groups():
            scored = hottest_owner(scored)
        self.number += 1
        return make_plan(state, scorer, scored, self.number, prefetch_pages, self.rules, turns, least=least)


def hottest_owner(scored: Scored) -> Scored:
    """A page that sequences share is worth what it is worth to the one that needs it first."""
    order = np.lexsort((scored.values, scored.pages))
    pages = scored.pages[order]
    first = np.ones(len(pages), np.bool_)
    first[1:] = pages[1:] != pages[:-1]
    kept = order[first]
    return Scored(
        scored.pages[kept], scored.generations[kept], scored.values[kept], scored.resident[kept],
        scored.epoch, scored.lanes,
    )  # fmt: skip


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
    *,
    least: int = 1,
) -> Plan:
    """Address values and prefetches by physical page and generation, as of the oldest state of a value.

    What lost or gained its slot since it was scored is left out. Prefetches are `least` to `prefetch_pages`, or none.
    """
    columns = _still(scored.pages, scored.generations, scored.values, scored.resident, state.resident)
    scored = Scored(*columns, scored.epoch, scored.lanes)
    chosen = choose_prefetch(scored.values, scored.resident, prefetch_pages, rules.margin, scorer.prefetch_below)
    if len(chosen) < least:
        chosen = chosen[:0]
    inside = np.flatnonzero(scored.resident)
    return Plan(
        number=number,
        epoch=scored.epoch,
        deadline=scored.epoch + rules.horizon + turns - 1,
        source=scorer.source,
        model_version=scorer.version,
        pages=scored.pages[inside],
        generations=scored.generations[inside],
        values=scored.values[inside],
        prefetch=scored.pages[chosen],
        prefetch_generations=scored.generations[chosen],
    )


@njit(cache=True, nogil=True)
def _still(
    pages: Int32, generations: UInt32, values: Float32, then: Bool, resident: Bool
) -> tuple[Int32, UInt32, Float32, Bool]:
    """The columns of `Scored`, of pages that are resident now as they were then."""
    kept = (np.empty_like(pages), np.empty_like(generations), np.empty_like(values), np.empty_like(then))
    m = 0
    for i in range(len(pages)):
        if resident[pages[i]] == then[i]:
            kept[0][m], kept[1][m], kept[2][m], kept[3][m] = pages[i], generations[i], values[i], then[i]
            m += 1
    return kept[0][:m], kept[1][:m], kept[2][:m], kept[3][:m]
