"""page_features on a CPU, compiled: as the reference, a page at a time. Formats: hotset.protos.device_features."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import torch
from numba import njit

from hotset.kernels.page_features.state import CHURN, LOWEST, RECALL, THRESHOLD, TURNOVER, PageFeatures, Place
from hotset.protos.device_features import (
    COUNT_UNITS,
    DECAY_STEPS,
    LONGEST,
    MARGIN_UNIT,
    NEW_WEIGHT,
    ONE,
    PAGE_FEATURES,
    RANK_FEATURES,
    SCORE_UNIT,
    UNUSED,
    WORDS,
)
from hotset.protos.features import CHURN_DECAY
from hotset.protos.heat import FLOOR
from hotset.protos.lookahead import RECALL_DECAY
from hotset.protos.messages import AccessFlag

_SELECTED, _FLOOR, _HALF, _MOST = int(AccessFlag.SELECTED), int(FLOOR), ONE // 2, (1 << 16) - 1
_NAN = np.float32(np.nan)
_PAGE_COLUMNS = len(PAGE_FEATURES)


def observe(state: PageFeatures, place: Place, ids: torch.Tensor, scores: torch.Tensor, flags: torch.Tensor) -> None:
    """See the public function."""
    cast(Any, _observe)(*_arrays(state), state.selected, *_where(place), ids.numpy(), scores.numpy(), flags.numpy())


def page_columns(state: PageFeatures, place: Place, ids: torch.Tensor, pages: torch.Tensor) -> torch.Tensor:
    """See the public function."""
    out = torch.empty(_PAGE_COLUMNS, *ids.shape)
    cast(Any, _page_columns)(*_arrays(state), *_where(place), ids.numpy(), pages.numpy(), out.numpy())
    return out


def lookahead_columns(state: PageFeatures, place: Place, ids: torch.Tensor, pages: torch.Tensor) -> torch.Tensor:
    """See the public function."""
    out = torch.empty(_PAGE_COLUMNS + len(RANK_FEATURES), *ids.shape)
    cast(Any, _page_columns)(*_arrays(state), *_where(place), ids.numpy(), pages.numpy(), out.numpy())
    ranks = state.ranked.numpy(), state.turns.numpy(), state.ranked_at.numpy()
    added = out.numpy()[_PAGE_COLUMNS:]
    new = np.zeros(len(ids), np.int32) if place.first is None else place.first.numpy()
    cast(Any, _rank_columns)(*_arrays(state)[:2], *ranks, state.selected, *_where(place), new, ids.numpy(), added)
    return out


def _arrays(state: PageFeatures) -> tuple[Any, ...]:
    return state.words.numpy(), state.view.numpy(), state.ranked.numpy(), state.ranked_at.numpy(), state.decays.numpy()


def _where(place: Place) -> tuple[Any, ...]:
    return place.groups_of.numpy(), place.rows.numpy(), place.steps.numpy(), place.layer, place.kv_heads


@njit(cache=True, inline="always")
def _physical(groups: Any, page: int, lane: int, lanes: int) -> int:
    """-1 where there is none."""
    if page < 0 or page >= len(groups) or groups[page] < 0:
        return -1
    return int(groups[page]) * lanes + lane


@njit(cache=True, inline="always")
def _aged(decays: Any, table: int, amount: int, steps: int) -> int:
    return (amount * int(decays[table, min(max(steps, 0), DECAY_STEPS - 1)]) + _HALF) >> 15


@njit(cache=True, inline="always")
def _low(word: int) -> int:
    return word & 0xFFFF


@njit(cache=True, inline="always")
def _high(word: int) -> int:
    return (word >> 16) & 0xFFFF


@njit(cache=True, inline="always")
def _seen_at(words: Any) -> int:
    return (int(words[0]) & 0xFFFFFF) - 1


@njit(cache=True, inline="always")
def _was_used(words: Any) -> bool:
    return words[0] != 0 and _low(int(words[1])) != UNUSED


@njit(cache=True, inline="always")
def _used_at(words: Any) -> int:
    return _seen_at(words) - _low(int(words[1]))


@njit(cache=True, nogil=True)
def _observe(
    words: Any, view: Any, ranked: Any, ranked_at: Any, decays: Any, first: int,
    groups_of: Any, rows: Any, steps: Any, layer: int, heads: int, ids: Any, scores: Any, flags: Any,
) -> None:  # fmt: skip
    lanes, (batch, _, n) = view.shape[1], ids.shape
    # Sequences may share pages; each sees them as they were before the step.
    old = np.zeros((batch, heads, n, WORDS), np.int32)
    at = np.full((batch, heads, n), -1, np.int64)
    for b in range(batch):
        for h in range(heads):
            for i in range(n):
                at[b, h, i] = _physical(groups_of[b], ids[b, h, i], layer * heads + h, lanes)
                if at[b, h, i] >= 0:
                    old[b, h, i] = words[at[b, h, i]]
    for b in range(batch):
        for h in range(heads):
            lane, row, step = layer * heads + h, rows[b], int(steps[b])
            best, lowest, fresh, count, hits = -1, 256, 0, 0, 0
            for i in range(n):
                if at[b, h, i] < 0:
                    continue
                lowest = min(lowest, int(scores[b, h, i]))
                if flags[b, h, i] & _SELECTED:
                    count += 1
                    fresh += not (_was_used(old[b, h, i]) and _used_at(old[b, h, i]) == step - 1)
                    for rank in range(min(first, ranked.shape[2])):
                        hits += ranked[row, lane, rank] == ids[b, h, i]
                else:
                    best = max(best, int(scores[b, h, i]))
            shares = (fresh / max(count, 1), hits / first)
            _see_lane(view[row, lane], ranked_at[row, lane] == step, step, best, lowest, shares)
            for i in range(n):
                if at[b, h, i] >= 0:
                    score, used = int(scores[b, h, i]), flags[b, h, i] & _SELECTED != 0
                    margin = max(_FLOOR + score - max(best, 0), _FLOOR if used else 0)
                    _see_page(words[at[b, h, i]], old[b, h, i], decays, step, score, margin, used)


@njit(cache=True)
def _see_lane(view: Any, was_ranked: bool, step: int, best: int, lowest: int, shares: tuple[float, float]) -> None:
    """`shares`: of what was used, the share that is new, and the share of the first ranks that was used."""
    turnover, share = np.float32(shares[0]), np.float32(shares[1])
    view[TURNOVER] = turnover
    churn = CHURN_DECAY * view[CHURN] + (1.0 - CHURN_DECAY) * turnover
    # A sequence that counts on from another one's steps has no average yet.
    view[CHURN] = turnover if step <= 1 or np.isnan(churn) else churn
    view[THRESHOLD] = best if best >= 0 else _NAN
    view[LOWEST] = lowest if lowest < 256 else _NAN
    if was_ranked:
        before = view[RECALL]
        view[RECALL] = share if np.isnan(before) else RECALL_DECAY * before + (1.0 - RECALL_DECAY) * share


@njit(cache=True)
def _see_page(words: Any, old: Any, decays: Any, step: int, score: int, margin: int, used: bool) -> None:
    was_used, idle, gap = _was_used(old), _low(int(old[1])), _high(int(old[1]))
    waited = max(step - _seen_at(old), 0) if old[0] != 0 else 0
    left = int(decays[2, min(waited, DECAY_STEPS - 1)])
    average = min(_MOST, (_low(int(old[3])) * left + SCORE_UNIT * score * NEW_WEIGHT + _HALF) >> 15)
    margins = min(_MOST, (_high(int(old[3])) * left + MARGIN_UNIT * margin * NEW_WEIGHT + _HALF) >> 15)
    idle = min(idle + waited, LONGEST) if was_used else UNUSED
    short, long = _low(int(old[2])), _high(int(old[2]))
    if used:
        gap = idle if was_used else 0
        short = min(_MOST, (_aged(decays, 0, short, gap) if was_used else 0) + COUNT_UNITS[0])
        long = min(_MOST, (_aged(decays, 1, long, gap) if was_used else 0) + COUNT_UNITS[1])
        idle = 0
    words[0] = np.int32((step + 1) | (score << 24))
    words[1] = np.int32(idle | (gap << 16))
    words[2] = np.int32(short | (long << 16))
    words[3] = np.int32(average | (margins << 16))


@njit(cache=True, nogil=True)
def _page_columns(
    words: Any, view: Any, ranked: Any, ranked_at: Any, decays: Any,
    groups_of: Any, rows: Any, steps: Any, layer: int, heads: int, ids: Any, pages: Any, out: Any,
) -> None:  # fmt: skip
    lanes, none = view.shape[1], np.zeros(WORDS, np.int32)
    for b in range(ids.shape[0]):
        step, newest = int(steps[b]), int(pages[b]) - 1
        for h in range(heads):
            lane = layer * heads + h
            seen = view[rows[b], lane]
            for i in range(ids.shape[2]):
                page = ids[b, h, i]
                at = _physical(groups_of[b], page, lane, lanes)
                if at < 0:
                    out[:_PAGE_COLUMNS, b, h, i] = _NAN
                    continue
                _own(words[at], decays, seen[THRESHOLD], step, out[:, b, h, i])
                out[10, b, h, i] = newest - page
                out[11, b, h, i] = page / max(newest, 1)
                for side in range(2):
                    beside = _physical(groups_of[b], page - 1 + 2 * side, lane, lanes)
                    other = words[beside] if beside >= 0 else none
                    out[12 + side, b, h, i] = step - _used_at(other) if _was_used(other) else _NAN
                    scored = other[0] != 0 and _seen_at(other) == step
                    out[14 + side, b, h, i] = (int(other[0]) >> 24) & 0xFF if scored else 0
                out[16, b, h, i] = seen[TURNOVER]
                out[17, b, h, i] = seen[CHURN]
                out[18, b, h, i] = seen[THRESHOLD]
                out[19, b, h, i] = seen[THRESHOLD] - seen[LOWEST]
                out[20, b, h, i] = layer


@njit(cache=True)
def _own(words: Any, decays: Any, threshold: Any, step: int, out: Any) -> None:
    known, was_used, gap = words[0] != 0, _was_used(words), _high(int(words[1]))
    idle, waited, score = step - _used_at(words), step - _seen_at(words), (int(words[0]) >> 24) & 0xFF
    out[0] = idle if was_used else _NAN
    out[1] = gap if gap > 0 else _NAN
    out[2] = _aged(decays, 0, _low(int(words[2])), idle) / COUNT_UNITS[0] if was_used else 0.0
    out[3] = _aged(decays, 1, _high(int(words[2])), idle) / COUNT_UNITS[1] if was_used else 0.0
    out[4] = score if known and waited == 0 else _NAN
    out[5] = score if known else _NAN
    out[6] = waited if known else _NAN
    out[7] = score - threshold if known else _NAN
    out[8] = _aged(decays, 2, _low(int(words[3])), waited) / SCORE_UNIT if known else 0.0
    out[9] = _aged(decays, 2, _high(int(words[3])), waited) / MARGIN_UNIT if known else 0.0


@njit(cache=True, nogil=True)
def _rank_columns(
    words: Any, view: Any, ranked: Any, turns: Any, ranked_at: Any, first: int,
    groups_of: Any, rows: Any, steps: Any, layer: int, heads: int, new: Any, ids: Any, out: Any,
) -> None:  # fmt: skip
    lanes, (batch, _, ranks) = view.shape[1], ids.shape
    old_turns = np.empty(ranks, np.int32)
    old = np.empty(ranks, np.int32)
    for b in range(batch):
        for h in range(heads):
            lane, row, step = layer * heads + h, rows[b], int(steps[b])
            valid = ranked_at[row, lane] == step
            old[:], old_turns[:] = ranked[row, lane], turns[row, lane]
            news_rank, news = 0, 0
            for i in range(ranks):
                page = ids[b, h, i]
                at = _physical(groups_of[b], page, lane, lanes)
                before, turned = -1, 0
                for j in range(ranks):
                    if valid and page >= 0 and old[j] == page:
                        before, turned = j, old_turns[j]
                ranked[row, lane, i], turns[row, lane, i] = page, turned + 1
                fresh = page >= 0 and not (at >= 0 and _was_used(words[at]) and _used_at(words[at]) == step)
                out[0, b, h, i] = i
                out[1, b, h, i] = before - i if before >= 0 else _NAN
                out[2, b, h, i] = view[row, lane, RECALL]
                out[4, b, h, i] = np.float32(news_rank) / (view[row, lane, CHURN] * first + np.float32(1.0))
                out[5, b, h, i] = turned + 1
                news_rank += fresh
                news += fresh and i < first
            out[3, b, h] = news / first
            for i in range(ranks):
                if ids[b, h, i] < 0:
                    out[: len(out), b, h, i] = _NAN
            ranked_at[row, lane] = -1 if new[b] else step + 1
