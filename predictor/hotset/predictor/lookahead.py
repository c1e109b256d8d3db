"""What the second head sees: a page's features as of the step before, and where the lookahead ranks it now.

A lookahead ranks pages for a lane by a query estimated a layer early. When layer l is ranked, the layers below it
have been ranked for the same step too, and their ranks tell as well. Ranks count from 0.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from numba import njit

from hotset.predictor.dataset import new_state
from hotset.predictor.features.base import Features
from hotset.predictor.trace.sequence import Bool, Int32, SequenceTrace
from hotset.protos.errors import ConfigError
from hotset.protos.features import FEATURES
from hotset.protos.lookahead import LOOKAHEAD_FEATURES, RECALL_DECAY
from hotset.protos.trace import TraceMeta

Float32 = npt.NDArray[np.float32]

USED_SHARE = 0.1
"""of ranked pages used at the step before, that training rows keep: they are resident, and easy"""
_CHUNK_ROWS = 1 << 16

DISTANCES = (1, 2)
"""layers early, the surer first"""

_COUNT = len(LOOKAHEAD_FEATURES)
WIDTH = len(FEATURES) + len(LOOKAHEAD_FEATURES)
_NEAR_LAYERS = 4


def nearest(lookahead: Mapping[int, Int32], order: tuple[int, ...] = DISTANCES) -> tuple[Int32, int]:
    """Each lane's ranks [..., lanes, r] by the first distance of `order` that it has, and the least in use.

    A runtime may look ahead two layers for some lanes and one for others. Raises ConfigError where there is none.
    """
    known = [distance for distance in order if distance in lookahead]
    if not known:
        raise ConfigError("no lookahead was recorded; this needs a log of a runtime that looks ahead")
    width = max(lookahead[distance].shape[-1] for distance in known)
    merged: Int32 = np.full((*lookahead[known[0]].shape[:-1], width), -1, np.int32)
    empty, used = np.ones(merged.shape[:-1], np.bool_), []
    for distance in known:
        ranks = lookahead[distance]
        here = empty & (ranks >= 0).any(axis=-1)
        merged[here, : ranks.shape[-1]] = ranks[here]
        empty &= ~here
        used += [distance] if here.any() else []
    return merged, min(used, default=known[0])


class RankMemory(NamedTuple):
    """Ranks by page, -1 where a page is not ranked."""

    now: Int32
    """[L, P]"""
    before: Int32
    """[L, P]"""
    turns: Int32
    """[L, P] steps in a row that ranked the page"""
    ranked: Int32
    """[layers + 1, P] heads of the layers below that rank the page among their first k"""
    recall: Float32
    """[L] NaN before the first step with both a lookahead and its outcome"""


class LookaheadState:
    """Ranks of one sequence; goes with a `FeatureState` of the same sequence."""

    def __init__(self, *, layers: int, kv_heads: int, selected: int, pages: int) -> None:
        self._heads, self._selected = kv_heads, selected
        lanes = layers * kv_heads
        self._memory = RankMemory(
            np.full((lanes, pages), -1, np.int32),
            np.full((lanes, pages), -1, np.int32),
            np.zeros((lanes, pages), np.int32),
            np.zeros((layers + 1, pages), np.int32),
            np.full(lanes, np.nan, np.float32),
        )

    def rank(self, features: Features, ranks: Int32) -> tuple[Int32, Int32, Float32]:
        """Take the lookahead [lanes, r] (-1 none) of the coming step; `features` has observed the step before it.

        Returns lanes [m], pages [m] of all that is ranked, and rows: those of `features`, then LOOKAHEAD_FEATURES ([m,
        WIDTH] for a `FeatureState`). Raises ConfigError if a rank names a page beyond `pages`.
        """
        if int(ranks.max(initial=-1)) >= self._memory.now.shape[1]:
            raise ConfigError(f"a lookahead names page {ranks.max()} of {self._memory.now.shape[1]}")
        _take(self._memory, ranks, self._heads, self._selected)
        rows_of, places = np.nonzero(ranks >= 0)
        lanes: Int32 = rows_of.astype(np.int32)
        pages: Int32 = ranks[rows_of, places].astype(np.int32)
        known = features.rows(lanes, pages)
        rows: Float32 = np.empty((len(lanes), known.shape[1] + _COUNT), np.float32)
        rows[:, :-_COUNT] = known
        last_used, churn = features.memory.last_used, features.churn[lanes]
        _fill(self._memory, last_used, features.steps - 1, self._heads, self._selected, lanes, pages, churn, rows)
        return lanes, pages, rows

    def settle(self, pages: Int32, selected: Bool) -> None:
        """Learn what the ranked step selected, [lanes, n]."""
        _settle(self._memory, self._selected, pages, selected)


@njit(cache=True)
def _take(memory: RankMemory, ranks: Int32, heads: int, selected: int) -> None:
    memory.before[:] = memory.now
    memory.now[:] = -1
    memory.ranked[:] = 0
    lanes = ranks.shape[0]
    for lane in range(lanes):
        for rank in range(ranks.shape[1]):
            page = ranks[lane, rank]
            if page >= 0:
                memory.now[lane, page] = rank
                memory.turns[lane, page] += 1
                memory.ranked[lane // heads + 1, page] += rank < selected
        for page in range(memory.now.shape[1]):
            if memory.now[lane, page] < 0:
                memory.turns[lane, page] = 0
    for layer in range(1, len(memory.ranked)):
        memory.ranked[layer] += memory.ranked[layer - 1]


@njit(cache=True)
def _fill(
    memory: RankMemory,
    last_used: Int32,
    last_step: int,
    heads: int,
    selected: int,
    lanes: Int32,
    pages: Int32,
    churn: Float32,
    rows: Float32,
) -> None:
    count = memory.now.shape[1]
    first = rows.shape[1] - _COUNT
    news = np.zeros(len(memory.recall), np.float32)
    # Rows come by lane in rank order, so that the news before a page are those of better rank.
    news_rank = np.zeros(len(lanes), np.int32)
    found = 0
    for i in range(len(lanes)):
        if i and lanes[i] != lanes[i - 1]:
            found = 0
        fresh = last_used[lanes[i], pages[i]] != last_step
        news[lanes[i]] += fresh and memory.now[lanes[i], pages[i]] < selected
        news_rank[i] = found
        found += fresh
    for i in range(len(lanes)):
        lane, page, out = lanes[i], pages[i], rows[i, first:]
        layer = lane // heads
        rank, before = memory.now[lane, page], memory.before[lane, page]
        out[0] = rank
        out[1] = before if before >= 0 else np.nan
        out[2] = before - rank if before >= 0 else np.nan
        out[3] = _best(memory.now, layer * heads, (layer + 1) * heads, lane, page)
        out[4] = _best(memory.now, (layer - 1) * heads, layer * heads, lane, page) if layer else np.nan
        lowest = max(0, layer - _NEAR_LAYERS)
        near = memory.ranked[layer, page] - memory.ranked[lowest, page]
        out[5] = near / ((layer - lowest) * heads) if layer else np.nan
        out[6] = memory.ranked[layer, page] / (layer * heads) if layer else np.nan
        beside = np.float32(np.nan)
        for other in (page - 1, page + 1):
            if 0 <= other < count and memory.now[lane, other] >= 0:
                beside = np.fmin(beside, np.float32(memory.now[lane, other]))
        out[7] = beside
        out[8] = memory.recall[lane]
        out[9] = news[lane] / selected
        out[10] = news_rank[i]
        out[11] = news_rank[i] / (churn[i] * selected + 1.0)
        out[12] = memory.turns[lane, page]


@njit(cache=True)
def _best(ranks: Int32, first: int, end: int, but: int, page: int) -> np.float32:
    best = np.float32(np.nan)
    for lane in range(first, end):
        if lane != but and ranks[lane, page] >= 0:
            best = np.fmin(best, np.float32(ranks[lane, page]))
    return best


@njit(cache=True)
def _settle(memory: RankMemory, selected_pages: int, pages: Int32, selected: Bool) -> None:
    for lane in range(pages.shape[0]):
        hits = 0
        for i in range(pages.shape[1]):
            if selected[lane, i]:
                hits += 0 <= memory.now[lane, pages[lane, i]] < selected_pages
        share = np.float32(hits / selected_pages)
        old = memory.recall[lane]
        memory.recall[lane] = share if np.isnan(old) else RECALL_DECAY * old + (1.0 - RECALL_DECAY) * share


class UseRows(NamedTuple):
    """A chunk of m training rows of the second head."""

    features: Float32
    """[m, WIDTH]"""
    used: Bool
    """[m] selected at the step that was ranked"""
    lane: Int32
    """[m]"""


def use_rows(
    sequence: SequenceTrace,
    meta: TraceMeta,
    *,
    order: tuple[int, ...] = DISTANCES,
    fraction: float,
    seed: int,
    states: tuple[Features, LookaheadState] | None = None,
) -> Iterator[UseRows]:
    """Training rows of ranked pages, in chunks; none if the sequence has no lookahead of a distance in `order`.

    A lane's ranks are those of the first distance in `order` that it has.
    Pages used at the step before are drawn with `fraction * USED_SHARE`, all others with `fraction`. `states`: empty
    ones whose rows are wanted, by default a `FeatureState` and a `LookaheadState`.
    """
    if not set(order) & set(sequence.lookahead):
        return
    ranks, _ = nearest(sequence.lookahead, order)
    random = np.random.default_rng(seed)
    parts: list[UseRows] = []
    for part in _steps(sequence, ranks, *(states or _new_states(sequence, meta))):
        used_before = part.features[:, 0] == 0.0
        chosen = random.random(len(part.used)) < np.where(used_before, fraction * USED_SHARE, fraction)
        parts.append(UseRows(part.features[chosen], part.used[chosen], part.lane[chosen]))
        if sum(len(p.used) for p in parts) >= _CHUNK_ROWS:
            yield _join(parts)
            parts = []
    if parts:
        yield _join(parts)


def _new_states(sequence: SequenceTrace, meta: TraceMeta) -> tuple[Features, LookaheadState]:
    return new_state(sequence, meta), new_lookahead(sequence.page_count, meta)


def _steps(sequence: SequenceTrace, ranks: Int32, features: Features, state: LookaheadState) -> Iterator[UseRows]:
    for t in range(len(sequence.steps)):
        pages, selected = sequence.pages[t], sequence.selected[t]
        if t:
            lanes, ranked, rows = state.rank(features, ranks[t])
            chosen = np.zeros((len(pages), sequence.page_count), np.bool_)
            lane, candidate = np.nonzero(selected)
            chosen[lane, pages[lane, candidate]] = True
            yield UseRows(rows, chosen[lanes, ranked], lanes)
            state.settle(pages, selected)
        features.observe(int(sequence.lengths[t]), pages, sequence.scores[t], selected)


def new_lookahead(pages: int, meta: TraceMeta) -> LookaheadState:
    """An empty state for a decode of `meta` with pages below `pages`."""
    return LookaheadState(layers=meta.layers, kv_heads=meta.kv_heads, selected=meta.selected, pages=pages)


def _join(parts: list[UseRows]) -> UseRows:
    features, used, lane = zip(*parts, strict=True)
    return UseRows(np.concatenate(features), np.concatenate(used), np.concatenate(lane))
