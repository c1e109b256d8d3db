"""Torch reference of page_features. Formats and arithmetic: hotset.protos.device_features."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch

from hotset.kernels.page_features.state import CHURN, LOWEST, RECALL, THRESHOLD, TURNOVER, PageFeatures, Place
from hotset.protos.device_features import (
    COUNT_UNITS,
    DECAY_STEPS,
    LONGEST,
    MARGIN_UNIT,
    NEW_WEIGHT,
    ONE,
    SCORE_UNIT,
    UNUSED,
)
from hotset.protos.features import CHURN_DECAY
from hotset.protos.heat import FLOOR
from hotset.protos.lookahead import RECALL_DECAY
from hotset.protos.messages import AccessFlag

_MOST = (1 << 16) - 1


class _Page(NamedTuple):
    """Unpacked words, int64; `was_used` and `known` bool."""

    known: torch.Tensor
    seen: torch.Tensor
    score: torch.Tensor
    was_used: torch.Tensor
    used_at: torch.Tensor
    idle: torch.Tensor
    gap: torch.Tensor
    short: torch.Tensor
    long: torch.Tensor
    average: torch.Tensor
    margin: torch.Tensor


def observe(state: PageFeatures, place: Place, ids: torch.Tensor, scores: torch.Tensor, flags: torch.Tensor) -> None:
    """See the public function."""
    physical, there = _physical(state, place, ids)
    rows, lanes = _lane_index(place)
    step, score = place.steps.long()[:, None, None], scores.long()
    used = there & ((flags.long() & int(AccessFlag.SELECTED)) != 0)
    page = _unpack(state.words[physical])
    best = torch.where(there & ~used, score, -1).amax(-1)
    lowest = torch.where(there, score, 256).amin(-1)
    fresh = (used & ~(page.was_used & (page.used_at == step - 1))).sum(-1)
    turnover = fresh / used.sum(-1).clamp(min=1)
    view = state.view[rows, lanes]
    # A sequence that counts on from another one's steps has no average yet.
    none = (step[:, 0] <= 1) | view[..., CHURN].isnan()
    churn = torch.where(none, turnover, CHURN_DECAY * view[..., CHURN] + (1 - CHURN_DECAY) * turnover)
    view[..., TURNOVER], view[..., CHURN] = turnover, churn
    view[..., THRESHOLD] = torch.where(best >= 0, best, math.nan)
    view[..., LOWEST] = torch.where(lowest < 256, lowest, math.nan)
    view[..., RECALL] = _recall(state, place, torch.where(used, ids, -1), view[..., RECALL])
    state.view[rows, lanes] = view
    floor = torch.where(used, int(FLOOR), 0)
    margin = torch.maximum(int(FLOOR) + score - best.clamp(min=0)[..., None], floor)
    state.words[physical[there]] = _after(state.decays, page, step, score, margin, used)[there]


def _after(
    decays: torch.Tensor,
    page: _Page,
    step: torch.Tensor,
    score: torch.Tensor,
    margin: torch.Tensor,
    used: torch.Tensor,
) -> torch.Tensor:
    """Words of pages that are candidates at `step`."""
    waited = torch.where(page.known, step - page.seen, 0).clamp(min=0)
    left = decays[2].long()[waited.clamp(max=DECAY_STEPS - 1)]
    average = ((page.average * left + SCORE_UNIT * score * NEW_WEIGHT + ONE // 2) >> 15).clamp(max=_MOST)
    margins = ((page.margin * left + MARGIN_UNIT * margin * NEW_WEIGHT + ONE // 2) >> 15).clamp(max=_MOST)
    idle = torch.where(page.was_used, (page.idle + waited).clamp(max=LONGEST), UNUSED)
    gap = torch.where(page.was_used, idle, 0)
    counts = []
    for column, amount in enumerate((page.short, page.long)):
        aged = torch.where(page.was_used, _aged(decays, column, amount, gap), 0) + COUNT_UNITS[column]
        counts.append(torch.where(used, aged.clamp(max=_MOST), amount))
    idle, gap = torch.where(used, 0, idle), torch.where(used, gap, page.gap)
    words = ((step + 1) | (score << 24), idle | (gap << 16), counts[0] | (counts[1] << 16), average | (margins << 16))
    return torch.stack(words, -1).to(torch.int32)


def _recall(state: PageFeatures, place: Place, used: torch.Tensor, old: torch.Tensor) -> torch.Tensor:
    """Average share of the lanes' first ranks that were used; `used` [B, H, n] pages, -1 for none."""
    rows, lanes = _lane_index(place)
    k = state.selected
    first = state.ranked[rows, lanes][..., :k]
    hits = ((used[..., :, None] == first[..., None, :]) & (used >= 0)[..., None]).sum((-1, -2))
    share = hits / k
    new = torch.where(old.isnan(), share, RECALL_DECAY * old + (1 - RECALL_DECAY) * share)
    return torch.where(state.ranked_at[rows, lanes] == place.steps[:, None], new, old)


def page_columns(state: PageFeatures, place: Place, ids: torch.Tensor, pages: torch.Tensor) -> torch.Tensor:
    """See the public function."""
    rows, lanes = _lane_index(place)
    step, newest = place.steps.long()[:, None, None], pages.long()[:, None, None] - 1
    physical, there = _physical(state, place, ids)
    page = _unpack(state.words[physical])
    view = state.view[rows, lanes][..., None, :].expand(*ids.shape, -1)
    threshold, waited = view[..., THRESHOLD], step - page.seen
    columns = [
        torch.where(page.was_used, step - page.used_at, math.nan),
        torch.where(page.gap > 0, page.gap, math.nan),
        *(
            torch.where(page.was_used, _aged(state.decays, i, amount, step - page.used_at) / COUNT_UNITS[i], 0.0)
            for i, amount in enumerate((page.short, page.long))
        ),
        torch.where(page.known & (waited == 0), page.score, math.nan),
        torch.where(page.known, page.score, math.nan),
        torch.where(page.known, waited, math.nan),
        torch.where(page.known, page.score - threshold, math.nan),
        torch.where(page.known, _aged(state.decays, 2, page.average, waited) / SCORE_UNIT, 0.0),
        torch.where(page.known, _aged(state.decays, 2, page.margin, waited) / MARGIN_UNIT, 0.0),
        (newest - ids).float(),
        ids / newest.clamp(min=1),
        *_beside(state, place, ids, step),
        view[..., TURNOVER],
        view[..., CHURN],
        threshold,
        threshold - view[..., LOWEST],
        torch.full_like(threshold, place.layer),
    ]
    return torch.stack([torch.where(there, column.float(), math.nan) for column in columns])


def lookahead_columns(state: PageFeatures, place: Place, ids: torch.Tensor, pages: torch.Tensor) -> torch.Tensor:
    """See the public function."""
    return torch.cat((page_columns(state, place, ids, pages), rank_columns(state, place, ids)), dim=0)


def _beside(state: PageFeatures, place: Place, ids: torch.Tensor, step: torch.Tensor) -> list[torch.Tensor]:
    """Ages, then scores at this step, of the pages before and after."""
    ages, scores = [], []
    for beside in (ids - 1, ids + 1):
        physical, there = _physical(state, place, beside)
        page = _unpack(state.words[physical])
        ages.append(torch.where(there & page.was_used, step - page.used_at, math.nan))
        scores.append(torch.where(there & page.known & (page.seen == step), page.score, 0))
    return ages + scores


def rank_columns(state: PageFeatures, place: Place, ids: torch.Tensor) -> torch.Tensor:
    """RANK_FEATURES [F, B, H, r] of the lookahead `ids`, which becomes the lanes' last one."""
    rows, lanes = _lane_index(place)
    k, there, now = state.selected, ids >= 0, place.steps.long()[:, None, None]
    valid = (state.ranked_at[rows, lanes].long() == now[..., 0])[..., None]
    old = torch.where(valid, state.ranked[rows, lanes], -1)
    same = (ids[..., :, None] == old[..., None, :]) & there[..., None]
    place_before = torch.arange(old.shape[-1], device=ids.device)
    before = torch.where(same, place_before, -1).amax(-1)
    turns = torch.where(same, state.turns[rows, lanes][..., None, :], 0).amax(-1) + 1
    physical, _ = _physical(state, place, ids)
    page = _unpack(state.words[physical])
    fresh = there & ~(page.was_used & (page.used_at == now))
    rank = torch.arange(ids.shape[-1], device=ids.device).expand(ids.shape)
    news_rank = fresh.cumsum(-1) - fresh.long()
    view = state.view[rows, lanes]
    news = ((fresh & (rank < k)).sum(-1) / k)[..., None].expand(ids.shape)
    columns = [
        rank.float(),
        torch.where(before >= 0, before - rank, math.nan),
        view[..., RECALL, None].expand(ids.shape),
        news,
        news_rank / (view[..., CHURN, None] * k + 1.0),
        turns.float(),
    ]
    state.ranked[rows, lanes], state.turns[rows, lanes] = ids, turns.to(torch.int32)
    kept = place.steps + 1 if place.first is None else torch.where(place.first != 0, -1, place.steps + 1)
    state.ranked_at[rows, lanes] = kept[:, None].expand(lanes.shape)
    return torch.stack([torch.where(there, column.float(), math.nan) for column in columns])


def _lane_index(place: Place) -> tuple[torch.Tensor, torch.Tensor]:
    """Row and lane of every (sequence, head), [B, H] int64 each."""
    lane = place.layer * place.kv_heads + torch.arange(place.kv_heads, device=place.rows.device)
    shape = (len(place.rows), place.kv_heads)
    return place.rows.long()[:, None].expand(shape), lane[None].expand(shape)


def _physical(state: PageFeatures, place: Place, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Physical pages [B, H, m] int64 of logical `ids`, 0 where there is none, and where there is one."""
    there = (ids >= 0) & (ids < place.groups_of.shape[1])
    logical = torch.where(there, ids, 0).long()
    groups = torch.gather(place.groups_of.long()[:, None].expand(-1, ids.shape[1], -1), -1, logical)
    lane = place.layer * place.kv_heads + torch.arange(place.kv_heads, device=ids.device)[:, None]
    there = there & (groups >= 0)
    return torch.where(there, groups * state.lanes + lane, 0), there


def _unpack(words: torch.Tensor) -> _Page:
    first, second, third, fourth = words.long().unbind(-1)
    known, seen, idle = first != 0, (first & 0xFFFFFF) - 1, second & 0xFFFF
    score = (first >> 24) & 0xFF
    halves = [half for word in (third, fourth) for half in (word & 0xFFFF, (word >> 16) & 0xFFFF)]
    return _Page(known, seen, score, known & (idle != UNUSED), seen - idle, idle, (second >> 16) & 0xFFFF, *halves)


def _aged(decays: torch.Tensor, table: int, amount: torch.Tensor, steps: torch.Tensor) -> torch.Tensor:
    return (amount * decays[table].long()[steps.clamp(0, DECAY_STEPS - 1)] + ONE // 2) >> 15
