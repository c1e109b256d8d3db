"""Rows of features out of the memory of pages and lanes (compiled). Order: `hotset.protos.features.FEATURES`."""

from __future__ import annotations

import numpy as np
from numba import njit

from hotset.predictor.features.decay import AVERAGE_DECAYS, COUNT_DECAYS, MARGIN_DECAYS, NEAR_DECAYS, after
from hotset.predictor.features.echo import EchoMemory, fill_echoes
from hotset.predictor.features.memory import NEVER, Float32, Int32, LaneMemory, PageMemory
from hotset.protos.features import GAPS, HALF_LIVES, REGION, SCORE_DECAYS

_NAN = np.float32(np.nan)


@njit(cache=True)
def fill_rows(
    memory: PageMemory,
    view: LaneMemory,
    echoes: EchoMemory,
    heads: int,
    step: int,
    newest: int,
    lanes: Int32,
    pages: Int32,
    out: Float32,
) -> None:
    """Features of pages [m] of lanes [m] as of `step` into out [m, F]; `newest` is the newest page."""
    for row in range(len(lanes)):
        lane, page = lanes[row], pages[row]
        at = _own(memory, view, lane, page, step, out[row], 0)
        at = _place(memory, lane, page, step, newest, out[row], at)
        at = _others(memory, heads, lane, page, step, out[row], at)
        at = fill_echoes(echoes, lane, lane // heads, page, step, out[row], at)
        out[row, at] = view.turnover[lane]
        out[row, at + 1] = view.churn[lane]
        out[row, at + 2] = view.threshold[lane]
        out[row, at + 3] = view.threshold[lane] - view.floor[lane]
        out[row, at + 4] = lane // heads


@njit(cache=True)
def _own(memory: PageMemory, view: LaneMemory, lane: int, page: int, step: int, out: Float32, at: int) -> int:
    """age .. near_age"""
    used, seen, near_at = memory.last_used[lane, page], memory.last_seen[lane, page], memory.near_at[lane, page]
    age, unseen = step - used, step - seen
    out[at] = age if used != NEVER else _NAN
    at += 1
    for i in range(GAPS):
        gap = memory.gaps[lane, page, i]
        out[at + i] = gap if gap else _NAN
    at += GAPS
    out[at] = memory.streak[lane, page]
    out[at + 1] = memory.uses[lane, page] / (step + 1)
    at += 2
    for i in range(len(HALF_LIVES)):
        out[at + i] = memory.counts[lane, page, i] * after(COUNT_DECAYS, age, i) if used != NEVER else 0.0
    at += len(HALF_LIVES)
    known = seen != NEVER
    out[at] = memory.last_score[lane, page] if known and unseen == 0 else _NAN
    out[at + 1] = memory.last_score[lane, page] if known else _NAN
    out[at + 2] = unseen if known else _NAN
    out[at + 3] = memory.last_score[lane, page] - view.threshold[lane] if known else _NAN
    before = memory.score_before[lane, page]
    out[at + 4] = int(memory.last_score[lane, page]) - before if before >= 0 else _NAN
    at += 5
    for i in range(len(SCORE_DECAYS)):
        out[at + i] = memory.averages[lane, page, i] * after(AVERAGE_DECAYS, unseen, i) if known else 0.0
    at += len(SCORE_DECAYS)
    out[at] = memory.margin[lane, page] * after(MARGIN_DECAYS, unseen, 0) if known else 0.0
    at += 1
    missed_out = near_at != NEVER
    out[at] = memory.near[lane, page] * after(NEAR_DECAYS, step - near_at, 0) if missed_out else 0.0
    out[at + 1] = step - near_at if missed_out else _NAN
    return at + 2


@njit(cache=True)
def _place(memory: PageMemory, lane: int, page: int, step: int, newest: int, out: Float32, at: int) -> int:
    """from_end .. region"""
    count = memory.last_used.shape[1]
    out[at] = newest - page
    out[at + 1] = page / max(newest, 1)
    for i in range(2):
        beside = page - 1 + 2 * i
        inside = 0 <= beside < count
        used = memory.last_used[lane, beside] if inside else NEVER
        out[at + 2 + i] = step - used if used != NEVER else _NAN
        scored = inside and memory.last_seen[lane, beside] == step
        out[at + 4 + i] = memory.last_score[lane, beside] if scored else 0.0
    region = 0
    for beside in range(max(page - REGION, 0), min(page + REGION + 1, count)):
        region += beside != page and memory.last_used[lane, beside] == step
    out[at + 6] = region
    return at + 7


@njit(cache=True)
def _others(memory: PageMemory, heads: int, lane: int, page: int, step: int, out: Float32, at: int) -> int:
    """peers .. heat"""
    layers = memory.heat.shape[0]
    layer = lane // heads
    peers, youngest, best = 0, NEVER, -1.0e9
    for other in range(layer * heads, (layer + 1) * heads):
        if other == lane:
            continue
        used, seen = memory.last_used[other, page], memory.last_seen[other, page]
        peers += used == step
        youngest = max(youngest, used)
        if seen != NEVER:
            best = max(best, memory.last_score[other, page] - float(step - seen))
    out[at] = peers / (heads - 1) if heads > 1 else _NAN
    out[at + 1] = step - youngest if youngest != NEVER else _NAN
    out[at + 2] = best if best > -1.0e9 else _NAN
    for i in range(3):
        out[at + 3 + i] = memory.selecting[layer - 1 - i, page] / heads if layer > i else _NAN
    out[at + 6] = memory.below[layer, page] / (layer * heads) if layer else _NAN
    higher = layers - 1 - layer
    out[at + 7] = memory.selected_before[layer + 1, page] / heads if higher else _NAN
    out[at + 8] = memory.above[layer + 1, page] / (higher * heads) if higher else _NAN
    near = np.float32(0.0)
    for other in range(max(layer - 2, 0), min(layer + 3, layers)):
        near += memory.heat[other, page] if other <= layer else memory.heat_before[other, page]
    out[at + 9] = near
    out[at + 10] = memory.heat_sum[layer, page]
    return at + 11
