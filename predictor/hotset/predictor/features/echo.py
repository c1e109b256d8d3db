"""Echoes: what was used after the earlier steps that resemble this one most (compiled).

Two steps of a lane resemble each other by the pages that both selected, each counted by how rare its use is:
log((steps + 1) / uses), as the inverse document frequency of text retrieval (Sparck Jones 1972). A layer's
resemblance is the average over all layers with weights exp(-distance/1.5); layers below (and its own) compare step
t with step s, layers above, which have not selected yet, step t-1 with step s-1. The ECHOES most similar steps vote
with weights (resemblance / best)**4 (**2 for horizons beyond NARROW) on when a page is used next: a
nearest-neighbour forecast.

A step only marks its uses and remembers its selection. Resemblance and votes are found when a row is asked for, and
equal what finding them at every step would give. Memory: a bit a page and step of the last WINDOW steps, 64 bytes
a page of a lane. Steps are counted in blocks of 64; block b has word b % WORDS of each page, which holds older
bits until the page is used in block b. Positions in the window are counted from its oldest block on.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from numba import njit

from hotset.predictor.features.bits import lowest_bit
from hotset.predictor.features.memory import NEVER, Float32, Int32, PageMemory, Records, UInt64, aligned
from hotset.protos.features import ECHO_HORIZONS, ECHOES

Int64 = npt.NDArray[np.int64]

WORDS = 8
WINDOW = 64 * WORDS
SKIPPED = 8
"""newest steps that are no echoes: they resemble this one, and what followed them is this one"""
_REACH = 1.5
NARROW = 8
"""longest horizon for which only the most similar steps count; further ahead a broad vote tells more"""
_COMMON = 0.2
"""weight of a page below which it tells nothing; skipping them keeps a step's cost low"""
_ONE, _ZERO = np.uint64(1), np.uint64(0)


class EchoMemory(NamedTuple):
    """Rings over the last WINDOW steps, and what was found of the last step when it was asked for."""

    used: UInt64
    """[L, P, WORDS] a bit a step"""
    chosen: Int32
    """[2, L, n] pages selected at step s, in chosen[s % 2]; NEVER ends a lane's"""
    likeness: Float32
    """[2, layers, WINDOW] likeness[s % 2] is that of step s with the steps at each place of the ring, 0..1"""
    compared: Int64
    """[2] the step whose likeness is there, NEVER for none"""
    found: Int64
    """[layers] the step whose votes are there, NEVER for none"""
    votes: Int32
    """[layers] how many echoes there are"""
    narrow: Float32
    """[layers, WINDOW] votes on near uses by position in the window, summing to 1; 0 where no echo is"""
    broad: Float32
    """[layers, WINDOW] the same on uses beyond NARROW"""
    echoes: UInt64
    """[layers, WORDS] where the votes are, a bit a position"""


def make_echoes(lanes: int, layers: int, pages: int, width: int = 0) -> EchoMemory:
    """Nothing used yet; `width` pages are selected in a lane at most."""
    return EchoMemory(
        used=aligned((lanes, pages, WORDS), np.dtype(np.uint64)),
        chosen=np.full((2, lanes, width), NEVER, np.int32),
        likeness=np.zeros((2, layers, WINDOW), np.float32),
        compared=np.full(2, NEVER, np.int64),
        found=np.full(layers, NEVER, np.int64),
        votes=np.zeros(layers, np.int32),
        narrow=np.zeros((layers, WINDOW), np.float32),
        broad=np.zeros((layers, WINDOW), np.float32),
        echoes=np.zeros((layers, WORDS), np.uint64),
    )


def grown_echoes(memory: EchoMemory, pages: int) -> EchoMemory:
    """A copy that holds `pages` pages."""
    lanes, have, words = memory.used.shape
    used = aligned((lanes, pages, words), memory.used.dtype)
    used[:, :have] = memory.used
    return memory._replace(used=used)


def widened(memory: EchoMemory, width: int) -> EchoMemory:
    """A copy with room for selections of `width` pages a lane."""
    chosen = np.full((*memory.chosen.shape[:2], width), NEVER, np.int32)
    chosen[:, :, : memory.chosen.shape[2]] = memory.chosen
    return memory._replace(chosen=chosen)


@njit(cache=True, nogil=True, inline="always")
def mark(used: UInt64, last_used: int, step: int) -> None:
    """Note in the words of a page [WORDS], last used at `last_used`, that it is used at `step`."""
    block = step // 64
    if last_used // 64 != block or last_used < 0:
        first = max(block - WORDS + 1, last_used // 64 + 1) if last_used >= 0 else 0
        for stale in range(first, block + 1):
            used[stale % WORDS] = _ZERO
    used[block % WORDS] |= _ONE << np.uint64(step % 64)


@njit(cache=True, nogil=True)
def find_echoes(echoes: EchoMemory, memory: PageMemory, heads: int, step: int, layer: int) -> None:
    """Have the votes of `layer` as of `step`, which is the last one observed."""
    if echoes.found[layer] == step:
        return
    if echoes.compared[(step + 1) % 2] != step - 1:
        _compare(echoes, memory, heads, step, step - 1)
    if echoes.compared[step % 2] != step:
        _compare(echoes, memory, heads, step, step)
    _find(echoes, layer, step)
    echoes.found[layer] = step


@njit(cache=True, nogil=True)
def _compare(echoes: EchoMemory, memory: PageMemory, heads: int, now: int, step: int) -> None:
    """Likeness of `step`, which is `now` or the step before it."""
    likeness, chosen = echoes.likeness[step % 2], echoes.chosen[step % 2]
    likeness[:] = 0.0
    echoes.compared[step % 2] = step
    own = np.empty(WINDOW, np.float32)
    for lane in range(chosen.shape[0]):
        own[:] = 0.0
        total = _compare_lane(own, echoes.used[lane], memory.hot[lane], memory.cold[lane], now, step, chosen[lane])
        if total > 0.0:
            mine = likeness[lane // heads]
            for place in range(WINDOW):
                mine[place] += own[place] / (total * heads)


@njit(cache=True, nogil=True)
def _compare_lane(own: Float32, used: UInt64, hot: Records, cold: Records, now: int, step: int, chosen: Int32) -> float:
    """Adds each page's weight to own [WINDOW] wherever it was used; returns the sum of weights."""
    total = 0.0
    for page in chosen:
        if page < 0:
            break
        record: Any = cold[page]
        last: Any = hot[page]
        uses = record.uses - (step < now and last.last_used == now)
        weight = math.log((step + 2) / max(uses, 1))
        total += weight
        if weight < _COMMON:
            continue
        # The page was used at `step`, so that no word of the window is older than that.
        for word in range(WORDS):
            bits = used[page, word]
            while bits:
                own[word * 64 + lowest_bit(bits)] += weight
                bits &= bits - _ONE
    return total


@njit(cache=True, nogil=True)
def _find(memory: EchoMemory, layer: int, step: int) -> None:
    """The ECHOES most similar steps up to step-SKIPPED; earlier ones win ties."""
    narrow, broad, echoes = memory.narrow[layer], memory.broad[layer], memory.echoes[layer]
    narrow[:] = 0.0
    broad[:] = 0.0
    echoes[:] = _ZERO
    like = _blended(memory, layer, step)
    first = max(0, (WORDS - 1 - step // 64) * 64)
    like = like[first : max(first, WINDOW - 64 + step % 64 - SKIPPED + 1)]
    memory.votes[layer] = min(ECHOES, len(like))
    if not len(like):
        return
    least, ties = np.float32(-1.0), len(like)
    if len(like) > ECHOES:
        least = np.partition(like, len(like) - ECHOES)[len(like) - ECHOES]
        ties = ECHOES - (like > least).sum()
    best = like.max()
    for i in range(len(like)):
        if like[i] > least or (like[i] == least and ties > 0):
            ties -= like[i] == least
            place = first + i
            broad[place] = (like[i] / best) ** 2 if best > 0.0 else np.float32(1.0)
            narrow[place] = broad[place] ** 2
            echoes[place // 64] |= _ONE << np.uint64(place % 64)
    broad /= broad.sum()
    narrow /= narrow.sum()


@njit(cache=True, nogil=True)
def _blended(memory: EchoMemory, layer: int, step: int) -> Float32:
    """Resemblance [WINDOW] of this step, as `layer` sees it, with the step at each position."""
    now, before = memory.likeness[step % 2], memory.likeness[(step + 1) % 2]
    layers = len(now)
    reach = np.empty(layers, np.float32)
    for other in range(layers):
        reach[other] = math.exp(-abs(other - layer) / _REACH)
    reach /= reach.sum()
    like = np.zeros(WINDOW + 1, np.float32)
    for other in range(layers):
        # Step s of this layer and those below goes with step s-1 of those above.
        later = other > layer
        source, weight = (before if later else now)[other], reach[other]
        for word in range(WORDS):
            at, to = (step // 64 + 1 + word) % WORDS * 64, word * 64 + later
            for i in range(64):
                like[to + i] += weight * source[at + i]
    return like[:WINDOW]


@njit(cache=True, nogil=True)
def fill_echoes(
    memory: EchoMemory, lane: int, layer: int, page: int, last_used: int, step: int, out: Float32, at: int
) -> int:
    """The echo features: share of votes for a use within each of ECHO_HORIZONS steps; NaN without an echo."""
    for j in range(len(ECHO_HORIZONS)):
        out[at + j] = 0.0 if memory.votes[layer] else np.nan
    if memory.votes[layer] and last_used != NEVER:
        _vote(memory, memory.used[lane, page], layer, last_used, step, out[at : at + len(ECHO_HORIZONS)])
    return at + len(ECHO_HORIZONS)


@njit(cache=True, nogil=True)
def _vote(memory: EchoMemory, used: UInt64, layer: int, last_used: int, step: int, out: Float32) -> None:
    window = np.empty(WORDS + 1, np.uint64)
    window[WORDS] = _ZERO
    block, newest = step // 64, last_used // 64
    for word in range(WORDS):
        at = block - WORDS + 1 + word
        window[word] = used[at % WORDS] if 0 <= at <= newest else _ZERO
    for word in range(WORDS):
        votes = memory.echoes[layer, word]
        while votes:
            bit = lowest_bit(votes)
            votes &= votes - _ONE
            # The 64 steps that follow the echo; none of them lies beyond this step, which is the last to be marked.
            after = window[word] >> np.uint64(bit) >> _ONE
            after |= window[word + 1] << np.uint64(63 - bit)
            wait = 1 + lowest_bit(after) if after else 64
            place = word * 64 + bit
            for j in range(len(ECHO_HORIZONS)):
                if wait <= ECHO_HORIZONS[j]:
                    out[j] += memory.narrow[layer, place] if ECHO_HORIZONS[j] <= NARROW else memory.broad[layer, place]
