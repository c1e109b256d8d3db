"""Rows of features out of the memory of pages and lanes (compiled). Order: `hotset.protos.features.FEATURES`."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from hotset.predictor.features.decay import (
    AVERAGE_DECAYS,
    COUNT_DECAYS,
    HEAT_DECAYS,
    MARGIN_DECAYS,
    NEAR_DECAYS,
    after,
)
from hotset.predictor.features.echo import EchoMemory, fill_echoes, find_echoes
from hotset.predictor.features.memory import FULL, NEVER, Float32, Int32, LaneMemory, PageMemory, Records
from hotset.protos.features import GAPS, HALF_LIVES, REGION, SCORE_DECAYS

_NAN, _ZERO = np.float32(np.nan), np.float32(0.0)
_NOWHERE = -1.0e9


@njit(cache=True, nogil=True)
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
        find_echoes(echoes, memory, heads, step, lane // heads)
        at = _own(memory, view, lane, page, step, out[row], 0)
        at = _place(memory.hot[lane], page, step, newest, out[row], at)
        at = _peers(memory.hot, heads, lane, page, step, out[row], at)
        at = _layers(memory.layers[page], heads, lane // heads, step, out[row], at)
        hot: Any = memory.hot[lane, page]
        at = fill_echoes(echoes, lane, lane // heads, page, hot.last_used, step, out[row], at)
        out[row, at] = view.turnover[lane]
        out[row, at + 1] = view.churn[lane]
        out[row, at + 2] = view.threshold[lane]
        out[row, at + 3] = view.threshold[lane] - view.floor[lane]
        out[row, at + 4] = lane // heads


@njit(cache=True, nogil=True)
def fill_margins(hot: Records, step: int, lanes: Int32, pages: Int32, out: Float32) -> None:
    """Margin averages as of `step` into out [m]."""
    for row in range(len(lanes)):
        record: Any = hot[lanes[row], pages[row]]
        seen = record.last_seen
        out[row] = record.margin * after(MARGIN_DECAYS, max(0, step - seen), 0) if seen != NEVER else _ZERO


@njit(cache=True, nogil=True)
def _own(memory: PageMemory, view: LaneMemory, lane: int, page: int, step: int, out: Float32, at: int) -> int:
    """age .. near_age"""
    hot: Any = memory.hot[lane, page]
    cold: Any = memory.cold[lane, page]
    used, seen = hot.last_used, hot.last_seen
    age, unseen = step - used, step - seen
    out[at] = age if used != NEVER else _NAN
    at += 1
    for i in range(GAPS):
        gap = cold.gaps[i]
        out[at + i] = gap if gap else _NAN
    at += GAPS
    out[at] = cold.streak
    out[at + 1] = cold.uses / (step + 1)
    at += 2
    for i in range(len(HALF_LIVES)):
        out[at + i] = cold.counts[i] * after(COUNT_DECAYS, age, i) if used != NEVER else _ZERO
    at += len(HALF_LIVES)
    known, score = seen != NEVER, np.float32(hot.last_score)
    out[at] = score if known and unseen == 0 else _NAN
    out[at + 1] = score if known else _NAN
    out[at + 2] = unseen if known else _NAN
    out[at + 3] = score - view.threshold[lane] if known else _NAN
    out[at + 4] = score - np.float32(hot.score_before) if hot.score_before >= 0 else _NAN
    at += 5
    for i in range(len(SCORE_DECAYS)):
        out[at + i] = cold.averages[i] * after(AVERAGE_DECAYS, unseen, i) if known else _ZERO
    at += len(SCORE_DECAYS)
    out[at] = hot.margin * after(MARGIN_DECAYS, unseen, 0) if known else _ZERO
    at += 1
    missed_out, ago = cold.near_lag != FULL, unseen + cold.near_lag
    out[at] = cold.near * after(NEAR_DECAYS, ago, 0) if missed_out else _ZERO
    out[at + 1] = ago if missed_out else _NAN
    return at + 2


@njit(cache=True, nogil=True)
def _place(hot: Records, page: int, step: int, newest: int, out: Float32, at: int) -> int:
    """from_end .. region"""
    count = len(hot)
    out[at] = newest - page
    out[at + 1] = page / max(newest, 1)
    for i in range(2):
        beside = page - 1 + 2 * i
        out[at + 2 + i] = _NAN
        out[at + 4 + i] = _ZERO
        if 0 <= beside < count:
            record: Any = hot[beside]
            if record.last_used != NEVER:
                out[at + 2 + i] = step - record.last_used
            if record.last_seen == step:
                out[at + 4 + i] = record.last_score
    region = 0
    for beside in range(max(page - REGION, 0), min(page + REGION + 1, count)):
        neighbour: Any = hot[beside]
        region += beside != page and neighbour.last_used == step
    out[at + 6] = region
    return at + 7


@njit(cache=True, nogil=True)
def _peers(hot: Records, heads: int, lane: int, page: int, step: int, out: Float32, at: int) -> int:
    """peers, peer_age, peer_score"""
    first = lane // heads * heads
    peers, youngest, best = 0, NEVER, _NOWHERE
    for other in range(first, first + heads):
        if other == lane:
            continue
        record: Any = hot[other, page]
        peers += record.last_used == step
        youngest = max(youngest, record.last_used)
        if record.last_seen != NEVER:
            best = max(best, record.last_score - float(step - record.last_seen))
    out[at] = peers / (heads - 1) if heads > 1 else _NAN
    out[at + 1] = step - youngest if youngest != NEVER else _NAN
    out[at + 2] = best if best > _NOWHERE else _NAN
    return at + 3


@njit(cache=True, nogil=True)
def _layers(sums: Records, heads: int, layer: int, step: int, out: Float32, at: int) -> int:
    """below_1 .. heat, from the page's record in each layer"""
    layers = len(sums)
    for i in range(3):
        out[at + i] = _now(sums[layer - 1 - i], step) / heads if layer > i else _NAN
    below, above, near, total = 0, 0, _ZERO, _ZERO
    for other in range(layers):
        record: Any = sums[other]
        if other < layer:
            below += _now(record, step)
        elif other > layer:
            above += _before(record, step)
        heat = _heat(record, step) if other <= layer else _heat_before(record, step)
        total += heat
        if abs(other - layer) <= 2:
            near += heat
    higher = layers - 1 - layer
    out[at + 3] = below / (layer * heads) if layer else _NAN
    out[at + 4] = _before(sums[layer + 1], step) / heads if higher else _NAN
    out[at + 5] = above / (higher * heads) if higher else _NAN
    out[at + 6] = near
    out[at + 7] = total
    return at + 8


@njit(cache=True, nogil=True, inline="always")
def _now(record: Any, step: int) -> int:
    """Heads that selected the page at `step`."""
    heads: int = record.now if record.used_at == step else 0
    return heads


@njit(cache=True, nogil=True, inline="always")
def _before(record: Any, step: int) -> int:
    """Heads that selected it at the step before."""
    heads: int = record.before if record.used_at == step else record.now if record.used_at == step - 1 else 0
    return heads


@njit(cache=True, nogil=True, inline="always")
def _heat(record: Any, step: int) -> np.float32:
    return np.float32(record.heat) * after(HEAT_DECAYS, step - record.used_at, 0) if record.used_at != NEVER else _ZERO


@njit(cache=True, nogil=True, inline="always")
def _heat_before(record: Any, step: int) -> np.float32:
    """As of the step before: what was added at `step` is taken off again."""
    if record.used_at == NEVER:
        return _ZERO
    if record.used_at == step:
        return np.float32((record.heat - record.now) / HEAT_DECAYS[1, 0])
    return np.float32(record.heat) * after(HEAT_DECAYS, step - 1 - record.used_at, 0)
