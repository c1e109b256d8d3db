# ruff: noqa: N803 - compile-time parameters are upper case, as everywhere in Triton
# mypy: disable-error-code="import-untyped, no-untyped-def, untyped-decorator"
"""Triton kernels of page_features: a program a lane, a page a thread or two; words are read and written once."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from hotset.kernels.dispatch import next_power_of_two
from hotset.kernels.page_features.state import CHURN as _CHURN
from hotset.kernels.page_features.state import LOWEST as _LOWEST
from hotset.kernels.page_features.state import RECALL as _RECALL
from hotset.kernels.page_features.state import THRESHOLD as _THRESHOLD
from hotset.kernels.page_features.state import TURNOVER as _TURNOVER
from hotset.kernels.page_features.state import VIEW as _VIEW
from hotset.kernels.page_features.state import PageFeatures, Place
from hotset.protos import device_features as spec
from hotset.protos.features import CHURN_DECAY as _CHURN_DECAY
from hotset.protos.heat import FLOOR as _FLOOR
from hotset.protos.lookahead import RECALL_DECAY as _RECALL_DECAY
from hotset.protos.messages import AccessFlag

VIEW, TURNOVER, CHURN = tl.constexpr(_VIEW), tl.constexpr(_TURNOVER), tl.constexpr(_CHURN)
THRESHOLD, LOWEST, RECALL = tl.constexpr(_THRESHOLD), tl.constexpr(_LOWEST), tl.constexpr(_RECALL)
CHURN_DECAY, RECALL_DECAY = tl.constexpr(_CHURN_DECAY), tl.constexpr(_RECALL_DECAY)
FLOOR, SELECTED = tl.constexpr(int(_FLOOR)), tl.constexpr(int(AccessFlag.SELECTED))
DECAY_STEPS, UNUSED, LONGEST = tl.constexpr(spec.DECAY_STEPS), tl.constexpr(spec.UNUSED), tl.constexpr(spec.LONGEST)
ONE, MOST, NEW = tl.constexpr(spec.ONE), tl.constexpr((1 << 16) - 1), tl.constexpr(spec.NEW_WEIGHT)
SHORT_UNIT, LONG_UNIT = tl.constexpr(spec.COUNT_UNITS[0]), tl.constexpr(spec.COUNT_UNITS[1])
SCORE_UNIT, MARGIN_UNIT = tl.constexpr(spec.SCORE_UNIT), tl.constexpr(spec.MARGIN_UNIT)
# Ranks that are compared with all pages of a lane at once.
CHUNK = tl.constexpr(32)


@triton.jit
def _group(groups_of, b, page, inside, max_pages):
    """Group of logical pages, -1 where there is none."""
    inside = inside & (page >= 0) & (page < max_pages)
    return tl.load(groups_of + b.to(tl.int64) * max_pages + page, mask=inside, other=-1).to(tl.int64)


@triton.jit
def _aged(decays, TABLE: tl.constexpr, amount, steps):
    """What is left of 16-bit amounts after `steps`; 64 bits wide."""
    steps = tl.minimum(tl.maximum(steps, 0), DECAY_STEPS - 1)
    return (amount.to(tl.int64) * tl.load(decays + TABLE * DECAY_STEPS + steps) + ONE // 2) >> 15


@triton.jit
def _used_at(first, second):
    """Step of the last use of pages, and whether there was one."""
    idle = second & 0xFFFF
    return (first & 0xFFFFFF) - 1 - idle, (first != 0) & (idle != UNUSED)


@triton.jit
def _average(decays, old, waited, UNIT: tl.constexpr, amount):
    steps = tl.minimum(waited, DECAY_STEPS - 1)
    left = old.to(tl.int64) * tl.load(decays + 2 * DECAY_STEPS + steps)
    return tl.minimum((left + (amount * UNIT).to(tl.int64) * NEW + ONE // 2) >> 15, MOST).to(tl.int32)


@triton.jit
def _counted(decays, TABLE: tl.constexpr, UNIT: tl.constexpr, old, gap, was_used, used):
    left = tl.where(was_used, _aged(decays, TABLE, old, gap), 0) + UNIT
    return tl.where(used, tl.minimum(left, MOST).to(tl.int32), old)


@triton.jit(do_not_specialize=["n", "max_pages", "lane_of_head_0"])
def _observe(
    ids, scores, flags, groups_of, rows, steps, words, view, ranked, ranked_at, decays,
    n, max_pages, lanes, lane_of_head_0,
    HEADS: tl.constexpr, BLOCK: tl.constexpr, RANKS: tl.constexpr, FIRST: tl.constexpr, CHUNKS: tl.constexpr,
    FLAGS: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0)
    b, lane = program // HEADS, lane_of_head_0 + program % HEADS
    step = tl.load(steps + b)
    own = tl.load(rows + b).to(tl.int64) * lanes + lane
    i = tl.arange(0, BLOCK)
    place = program.to(tl.int64) * n + i
    page = tl.load(ids + place, mask=i < n, other=-1)
    group = _group(groups_of, b, page, i < n, max_pages)
    there = group >= 0
    score = tl.load(scores + place, mask=there, other=0).to(tl.int32)
    used = there & (i < FIRST)
    if FLAGS:
        used = there & ((tl.load(flags + place, mask=there, other=0).to(tl.int32) & SELECTED) != 0)
    at = words + (group * lanes + lane) * 4
    first, second = tl.load(at, mask=there, other=0), tl.load(at + 1, mask=there, other=0)
    third, fourth = tl.load(at + 2, mask=there, other=0), tl.load(at + 3, mask=there, other=0)
    used_at, was_used = _used_at(first, second)

    best = tl.max(tl.where(there & (used == 0), score, -1))
    lowest = tl.min(tl.where(there, score, 256))
    fresh = tl.sum((used & ((was_used == 0) | (used_at != step - 1))).to(tl.int32))
    turnover = fresh.to(tl.float32) / tl.maximum(tl.sum(used.to(tl.int32)), 1).to(tl.float32)
    mine = view + own * VIEW
    churn = CHURN_DECAY * tl.load(mine + CHURN) + (1.0 - CHURN_DECAY) * turnover
    hits = tl.zeros([], tl.int32)
    for chunk in tl.static_range(CHUNKS):
        j = chunk * CHUNK + tl.arange(0, CHUNK)
        rank = tl.load(ranked + own * RANKS + j, mask=(j < RANKS) & (j < FIRST), other=-1)
        hits += tl.sum(((page[:, None] == rank[None, :]) & used[:, None]).to(tl.int32))
    share, recall = hits.to(tl.float32) / FIRST, tl.load(mine + RECALL)
    recalled = tl.where(recall != recall, share, RECALL_DECAY * recall + (1.0 - RECALL_DECAY) * share)
    tl.store(mine + TURNOVER, turnover)
    # A sequence that counts on from another one's steps has no average yet.
    tl.store(mine + CHURN, tl.where((step <= 1) | (churn != churn), turnover, churn))
    tl.store(mine + THRESHOLD, tl.where(best >= 0, best.to(tl.float32), float("nan")))
    tl.store(mine + LOWEST, tl.where(lowest < 256, lowest.to(tl.float32), float("nan")))
    tl.store(mine + RECALL, tl.where(tl.load(ranked_at + own) == step, recalled, recall))

    margin = FLOOR + score - tl.maximum(best, 0)
    margin = tl.maximum(margin, tl.where(used, FLOOR, 0))
    waited = tl.where(first != 0, tl.maximum(step - (first & 0xFFFFFF) + 1, 0), 0)
    idle = tl.where(was_used, tl.minimum((second & 0xFFFF) + waited, LONGEST), UNUSED)
    gap = tl.where(was_used, idle, 0)
    short = _counted(decays, 0, SHORT_UNIT, third & 0xFFFF, gap, was_used, used)
    long = _counted(decays, 1, LONG_UNIT, (third >> 16) & 0xFFFF, gap, was_used, used)
    average = _average(decays, fourth & 0xFFFF, waited, SCORE_UNIT, score)
    margins = _average(decays, (fourth >> 16) & 0xFFFF, waited, MARGIN_UNIT, margin)
    gap = tl.where(used, gap, (second >> 16) & 0xFFFF)
    tl.store(at, (step + 1) | (score << 24), mask=there)
    tl.store(at + 1, tl.where(used, 0, idle) | (gap << 16), mask=there)
    tl.store(at + 2, short | (long << 16), mask=there)
    tl.store(at + 3, average | (margins << 16), mask=there)


@triton.jit
def _beside(groups_of, words, b, lane, page, there, step, max_pages, lanes):
    """Age (NaN if never used) and score at this step (else 0) of pages."""
    group = _group(groups_of, b, page, there, max_pages)
    at = words + (group * lanes + lane) * 4
    first = tl.load(at, mask=group >= 0, other=0)
    used_at, was_used = _used_at(first, tl.load(at + 1, mask=group >= 0, other=0))
    scored = (first != 0) & ((first & 0xFFFFFF) - 1 == step)
    age = tl.where(was_used, (step - used_at).to(tl.float32), float("nan"))
    return age, tl.where(scored, ((first >> 24) & 0xFF).to(tl.float32), 0.0)


@triton.jit(do_not_specialize=["m", "max_pages", "lane_of_head_0", "layer", "column"])
def _page_columns(
    ids, groups_of, rows, steps, pages, words, view, decays, out,
    m, max_pages, lanes, lane_of_head_0, layer, column,
    HEADS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0)
    b, lane = program // HEADS, lane_of_head_0 + program % HEADS
    step, newest = tl.load(steps + b), tl.load(pages + b) - 1
    i = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    place = program.to(tl.int64) * m + i
    inside = i < m
    page = tl.load(ids + place, mask=inside, other=-1)
    group = _group(groups_of, b, page, inside, max_pages)
    there = group >= 0
    at = words + (group * lanes + lane) * 4
    first, second = tl.load(at, mask=there, other=0), tl.load(at + 1, mask=there, other=0)
    third, fourth = tl.load(at + 2, mask=there, other=0), tl.load(at + 3, mask=there, other=0)
    mine = view + (tl.load(rows + b).to(tl.int64) * lanes + lane) * VIEW
    threshold, lowest = tl.load(mine + THRESHOLD), tl.load(mine + LOWEST)
    turnover, churn = tl.load(mine + TURNOVER), tl.load(mine + CHURN)

    known, used_at, was_used = first != 0, (first & 0xFFFFFF) - 1 - (second & 0xFFFF), (second & 0xFFFF) != UNUSED
    was_used = known & was_used
    waited, score = step - (first & 0xFFFFFF) + 1, ((first >> 24) & 0xFF).to(tl.float32)
    age, gap = step - used_at, (second >> 16) & 0xFFFF
    short = _aged(decays, 0, third & 0xFFFF, age).to(tl.float32) / SHORT_UNIT
    long = _aged(decays, 1, (third >> 16) & 0xFFFF, age).to(tl.float32) / LONG_UNIT
    average = _aged(decays, 2, fourth & 0xFFFF, waited).to(tl.float32) / SCORE_UNIT
    margin = _aged(decays, 2, (fourth >> 16) & 0xFFFF, waited).to(tl.float32) / MARGIN_UNIT
    age_0, score_0 = _beside(groups_of, words, b, lane, page - 1, there, step, max_pages, lanes)
    age_1, score_1 = _beside(groups_of, words, b, lane, page + 1, there, step, max_pages, lanes)

    to, column = out + place, column.to(tl.int64)
    tl.store(to, tl.where(was_used, age.to(tl.float32), float("nan")), mask=inside)
    tl.store(to + column, tl.where(there & (gap > 0), gap.to(tl.float32), float("nan")), mask=inside)
    tl.store(to + 2 * column, tl.where(there, tl.where(was_used, short, 0.0), float("nan")), mask=inside)
    tl.store(to + 3 * column, tl.where(there, tl.where(was_used, long, 0.0), float("nan")), mask=inside)
    tl.store(to + 4 * column, tl.where(known & (waited == 0), score, float("nan")), mask=inside)
    tl.store(to + 5 * column, tl.where(known, score, float("nan")), mask=inside)
    tl.store(to + 6 * column, tl.where(known, waited.to(tl.float32), float("nan")), mask=inside)
    tl.store(to + 7 * column, tl.where(known, score - threshold, float("nan")), mask=inside)
    tl.store(to + 8 * column, tl.where(there, tl.where(known, average, 0.0), float("nan")), mask=inside)
    tl.store(to + 9 * column, tl.where(there, tl.where(known, margin, 0.0), float("nan")), mask=inside)
    tl.store(to + 10 * column, tl.where(there, (newest - page).to(tl.float32), float("nan")), mask=inside)
    position = page.to(tl.float32) / tl.maximum(newest, 1).to(tl.float32)
    tl.store(to + 11 * column, tl.where(there, position, float("nan")), mask=inside)
    tl.store(to + 12 * column, tl.where(there, age_0, float("nan")), mask=inside)
    tl.store(to + 13 * column, tl.where(there, age_1, float("nan")), mask=inside)
    tl.store(to + 14 * column, tl.where(there, score_0, float("nan")), mask=inside)
    tl.store(to + 15 * column, tl.where(there, score_1, float("nan")), mask=inside)
    tl.store(to + 16 * column, tl.where(there, turnover, float("nan")), mask=inside)
    tl.store(to + 17 * column, tl.where(there, churn, float("nan")), mask=inside)
    tl.store(to + 18 * column, tl.where(there, threshold, float("nan")), mask=inside)
    tl.store(to + 19 * column, tl.where(there, threshold - lowest, float("nan")), mask=inside)
    tl.store(to + 20 * column, tl.where(there, layer.to(tl.float32), float("nan")), mask=inside)


@triton.jit(do_not_specialize=["max_pages", "lane_of_head_0", "column"])
def _rank_columns(
    ids, groups_of, rows, steps, new, words, view, ranked, turns, ranked_at, out,
    max_pages, lanes, lane_of_head_0, column,
    HEADS: tl.constexpr, RANKS: tl.constexpr, BLOCK: tl.constexpr, FIRST: tl.constexpr, CHUNKS: tl.constexpr,
    NEWS: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0)
    b, lane = program // HEADS, lane_of_head_0 + program % HEADS
    step = tl.load(steps + b)
    own = tl.load(rows + b).to(tl.int64) * lanes + lane
    rank = tl.arange(0, BLOCK)
    inside = rank < RANKS
    place = program.to(tl.int64) * RANKS + rank
    page = tl.load(ids + place, mask=inside, other=-1)
    there = page >= 0
    valid = tl.load(ranked_at + own) == step
    before, turned = tl.full([BLOCK], -1, tl.int32), tl.zeros([BLOCK], tl.int32)
    for chunk in tl.static_range(CHUNKS):
        j = chunk * CHUNK + tl.arange(0, CHUNK)
        old = tl.load(ranked + own * RANKS + j, mask=(j < RANKS) & valid, other=-1)
        turn = tl.load(turns + own * RANKS + j, mask=(j < RANKS) & valid, other=0)
        same = (page[:, None] == old[None, :]) & there[:, None]
        before = tl.maximum(before, tl.max(tl.where(same, j[None, :], -1), 1))
        turned = tl.maximum(turned, tl.max(tl.where(same, turn[None, :], 0), 1))
    group = _group(groups_of, b, page, inside, max_pages)
    at = words + (group * lanes + lane) * 4
    first, second = tl.load(at, mask=group >= 0, other=0), tl.load(at + 1, mask=group >= 0, other=0)
    used_at, was_used = _used_at(first, second)
    fresh = (there & ((was_used == 0) | (used_at != step))).to(tl.int32)
    news = tl.sum(tl.where(rank < FIRST, fresh, 0)).to(tl.float32) / FIRST
    news_rank = (tl.cumsum(fresh, 0) - fresh).to(tl.float32)
    recall, churn = tl.load(view + own * VIEW + RECALL), tl.load(view + own * VIEW + CHURN)
    to, column = out + place, column.to(tl.int64)
    tl.store(to, tl.where(there, rank.to(tl.float32), float("nan")), mask=inside)
    tl.store(to + column, tl.where(there & (before >= 0), (before - rank).to(tl.float32), float("nan")), mask=inside)
    tl.store(to + 2 * column, tl.where(there, recall, float("nan")), mask=inside)
    tl.store(to + 3 * column, tl.where(there, news, float("nan")), mask=inside)
    tl.store(to + 4 * column, tl.where(there, news_rank / (churn * FIRST + 1.0), float("nan")), mask=inside)
    tl.store(to + 5 * column, tl.where(there, (turned + 1).to(tl.float32), float("nan")), mask=inside)
    # All threads have read the old lookahead before any writes the new one.
    tl.debug_barrier()
    tl.store(ranked + own * RANKS + rank, page, mask=inside)
    tl.store(turns + own * RANKS + rank, turned + 1, mask=inside)
    kept = step + 1
    if NEWS:
        kept = tl.where(tl.load(new + b) != 0, -1, kept)
    tl.store(ranked_at + own, kept)


def observe(
    state: PageFeatures, place: Place, ids: torch.Tensor, scores: torch.Tensor, flags: torch.Tensor | None
) -> None:
    """Arguments as checked by the public function."""
    batch, heads, n = ids.shape
    ranks = state.ranked.shape[2]
    _observe[(batch * heads,)](
        ids, scores, scores if flags is None else flags, place.groups_of, place.rows, place.steps, state.words,
        state.view, state.ranked,
        state.ranked_at, state.decays, n, place.groups_of.shape[1], state.lanes, place.layer * heads,
        HEADS=heads, BLOCK=next_power_of_two(n), RANKS=ranks, FIRST=state.selected,
        CHUNKS=triton.cdiv(min(ranks, state.selected), CHUNK.value), FLAGS=flags is not None, num_warps=4,
    )  # fmt: skip


def page_columns(state: PageFeatures, place: Place, ids: torch.Tensor, pages: torch.Tensor, out: torch.Tensor) -> None:
    """Fill the first PAGE_FEATURES of `out`; arguments as checked by the public function."""
    batch, heads, m = ids.shape
    block = min(128, next_power_of_two(m))
    _page_columns[(batch * heads, triton.cdiv(m, block))](
        ids, place.groups_of, place.rows, place.steps, pages, state.words, state.view, state.decays, out,
        m, place.groups_of.shape[1], state.lanes, place.layer * heads, place.layer, out.stride(0),
        HEADS=heads, BLOCK=block, num_warps=4,
    )  # fmt: skip


def rank_columns(state: PageFeatures, place: Place, ids: torch.Tensor, out: torch.Tensor) -> None:
    """Fill the RANK_FEATURES of `out`, and keep the lookahead; arguments as checked by the public function."""
    batch, heads, ranks = ids.shape
    _rank_columns[(batch * heads,)](
        ids, place.groups_of, place.rows, place.steps, place.rows if place.first is None else place.first,
        state.words, state.view, state.ranked, state.turns, state.ranked_at,
        out[len(spec.PAGE_FEATURES) :], place.groups_of.shape[1], state.lanes,
        place.layer * heads, out.stride(0),
        HEADS=heads, RANKS=ranks, BLOCK=next_power_of_two(ranks), FIRST=state.selected,
        CHUNKS=triton.cdiv(ranks, CHUNK.value), NEWS=place.first is not None, num_warps=4,
    )  # fmt: skip
