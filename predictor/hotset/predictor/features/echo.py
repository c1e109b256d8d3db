"""Echoes: what was used after the earlier steps that resemble this one most (compiled).

Two steps of a lane resemble each other by the pages that both selected, each counted by how rare its use is:
log((steps + 1) / uses), as the inverse document frequency of text retrieval (Sparck Jones 1972). A layer's
resemblance is the average over all layers with weights exp(-distance/1.5); layers below (and its own) compare step
t with step s, layers above, which have not selected yet, step t-1 with step s-1. The ECHOES most similar steps vote
with weights (resemblance / best)**4 (**2 for horizons beyond NARROW) on when a page is used next: a
nearest-neighbour forecast.

Memory: a bit a page and step of the last WINDOW steps, 64 bytes a page of a lane.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from numba import njit

from hotset.predictor.features.bits import lowest_bit
from hotset.predictor.features.memory import Bool, Float32, Int32
from hotset.protos.features import ECHO_HORIZONS, ECHOES

UInt64 = npt.NDArray[np.uint64]

WORDS = 8
WINDOW = 64 * WORDS
SKIPPED = 8
"""newest steps that are no echoes: they resemble this one, and what followed them is this one"""
_REACH = 1.5
NARROW = 8
"""longest horizon for which only the most similar steps count; further ahead a broad vote tells more"""
_COMMON = 0.2
"""weight of a page below which it tells nothing; skipping them keeps a step's cost low"""
_LONGEST = max(ECHO_HORIZONS)


class EchoMemory(NamedTuple):
    """Rings over the last WINDOW steps; step s has place s % WINDOW."""

    used: UInt64
    """[L, P, WORDS] a bit a step"""
    likeness: Float32
    """[layers, WINDOW] of this step with earlier ones, 0..1"""
    likeness_before: Float32
    """[layers, WINDOW] the same of the step before"""
    steps: Int32
    """[layers, ECHOES] the most similar steps, -1 for none"""
    weights: Float32
    """[layers, ECHOES] their votes on near uses, summing to 1"""
    broad: Float32
    """[layers, ECHOES] their votes on uses beyond NARROW, summing to 1"""


def make_echoes(lanes: int, layers: int, pages: int) -> EchoMemory:
    """Nothing used yet."""
    return EchoMemory(
        np.zeros((lanes, pages, WORDS), np.uint64),
        np.zeros((layers, WINDOW), np.float32),
        np.zeros((layers, WINDOW), np.float32),
        np.full((layers, ECHOES), -1, np.int32),
        np.zeros((layers, ECHOES), np.float32),
        np.zeros((layers, ECHOES), np.float32),
    )


def grown_echoes(memory: EchoMemory, pages: int) -> EchoMemory:
    """A copy that holds `pages` pages."""
    lanes, have, words = memory.used.shape
    used = np.zeros((lanes, pages, words), np.uint64)
    used[:, :have] = memory.used
    return memory._replace(used=used)


@njit(cache=True)
def observe_echoes(memory: EchoMemory, uses: Int32, heads: int, step: int, pages: Int32, selected: Bool) -> None:
    """Record the selection [L, n] of `step` and find the steps like it; uses [L, P] with this step's in it."""
    place = step % WINDOW
    if place % 64 == 0:
        memory.used[:, :, place // 64] = 0
    memory.likeness_before[:] = memory.likeness
    memory.likeness[:] = 0.0
    for lane in range(pages.shape[0]):
        _compare(memory, uses, heads, step, lane, pages[lane], selected[lane])
    bit = np.uint64(1) << np.uint64(place % 64)
    for lane in range(pages.shape[0]):
        for i in range(pages.shape[1]):
            if selected[lane, i]:
                memory.used[lane, pages[lane, i], place // 64] |= bit
    # The word of this step still lacks the end of its last turn, so that a full window is not there.
    oldest = max(0, step - WINDOW + 64 - place % 64)
    for layer in range(len(memory.steps)):
        _find(memory, layer, step, oldest)


@njit(cache=True)
def _compare(memory: EchoMemory, uses: Int32, heads: int, step: int, lane: int, pages: Int32, selected: Bool) -> None:
    own = np.zeros(WINDOW, np.float32)
    total = 0.0
    for i in range(len(pages)):
        if not selected[i]:
            continue
        weight = math.log((step + 2) / uses[lane, pages[i]])
        total += weight
        if weight < _COMMON:
            continue
        for word in range(WORDS):
            bits = memory.used[lane, pages[i], word]
            while bits:
                own[word * 64 + lowest_bit(bits)] += weight
                bits &= bits - np.uint64(1)
    if total > 0.0:
        for place in range(WINDOW):
            memory.likeness[lane // heads, place] += own[place] / (total * heads)


@njit(cache=True)
def _find(memory: EchoMemory, layer: int, step: int, oldest: int) -> None:
    """The ECHOES most similar steps in oldest..step-SKIPPED; earlier ones win ties."""
    steps, weights = memory.steps[layer], memory.weights[layer]
    steps[:] = -1
    weights[:] = 0.0
    layers = len(memory.likeness)
    count = 0
    reach = np.empty(layers, np.float32)
    for other in range(layers):
        reach[other] = math.exp(-abs(other - layer) / _REACH)
    reach /= reach.sum()
    for earlier in range(oldest, step - SKIPPED + 1):
        place = earlier % WINDOW
        like = np.float32(0.0)
        for other in range(layers):
            if other <= layer:
                like += reach[other] * memory.likeness[other, place]
            elif earlier > oldest:
                like += reach[other] * memory.likeness_before[other, place - 1]
        if count == ECHOES and not like > weights[ECHOES - 1]:
            continue
        at = min(count, ECHOES - 1)
        while at > 0 and like > weights[at - 1]:
            weights[at], steps[at] = weights[at - 1], steps[at - 1]
            at -= 1
        weights[at], steps[at] = like, earlier
        count = min(count + 1, ECHOES)
    broad = memory.broad[layer]
    broad[:] = 0.0
    best = weights[0]
    for i in range(count):
        broad[i] = (weights[i] / best) ** 2 if best > 0.0 else 1.0
        weights[i] = broad[i] ** 2
    if count:
        broad /= broad.sum()
        weights /= weights.sum()


@njit(cache=True)
def fill_echoes(memory: EchoMemory, lane: int, layer: int, page: int, step: int, out: Float32, at: int) -> int:
    """The echo features: share of votes for a use within each of ECHO_HORIZONS steps; NaN without an echo."""
    if memory.steps[layer, 0] < 0:
        for j in range(len(ECHO_HORIZONS)):
            out[at + j] = np.nan
        return at + len(ECHO_HORIZONS)
    for j in range(len(ECHO_HORIZONS)):
        out[at + j] = 0.0
    for i in range(ECHOES):
        earlier = memory.steps[layer, i]
        if earlier < 0:
            break
        wait = _first_use(memory.used[lane, page], earlier, min(_LONGEST, step - earlier))
        for j in range(len(ECHO_HORIZONS)):
            if wait <= ECHO_HORIZONS[j]:
                narrow = ECHO_HORIZONS[j] <= NARROW
                out[at + j] += memory.weights[layer, i] if narrow else memory.broad[layer, i]
    return at + len(ECHO_HORIZONS)


@njit(cache=True)
def _first_use(used: UInt64, earlier: int, horizon: int) -> int:
    """Steps from `earlier` to the first use within 1..horizon (at most 63); 64 if there is none."""
    place = (earlier + 1) % WINDOW
    word, shift = place // 64, place % 64
    bits = used[word] >> np.uint64(shift)
    if shift:
        bits |= used[(word + 1) % WORDS] << np.uint64(64 - shift)
    bits &= (np.uint64(1) << np.uint64(horizon)) - np.uint64(1)
    return 1 + lowest_bit(bits) if bits else 64
