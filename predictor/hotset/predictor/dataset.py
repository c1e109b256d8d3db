"""Training rows of a recorded sequence: features and label of one snapshot, in a stream.

At every step each lane contributes pages that could be victims: those that were used or were candidates within
the last `RECENT` steps, and fewer (`RARE`) of those longer ago or used at this very step, which no pool evicts
now. Their number is drawn so that a whole sequence gives about `fraction` times as many rows as it has candidates.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from numba import njit

from hotset.predictor.features import FeatureState
from hotset.predictor.features.base import Features
from hotset.predictor.features.memory import NEVER
from hotset.predictor.labels import advance, log_steps, next_uses
from hotset.predictor.trace.sequence import Bool, Int32, SequenceTrace
from hotset.protos.errors import ConfigError
from hotset.protos.trace import TraceMeta

Float32 = npt.NDArray[np.float32]

RECENT = 48
RARE = 0.06
_CHUNK_ROWS = 1 << 16


class Rows(NamedTuple):
    """A chunk of m training rows."""

    features: Float32
    """[m, F]"""
    target: Float32
    """[m] log2 of steps to the next use; where censored, of the least it can be"""
    censored: Bool
    """[m] not used again before the window ended"""
    lane: Int32
    """[m]"""


def sequence_rows(
    sequence: SequenceTrace, meta: TraceMeta, *, fraction: float, seed: int, state: Features | None = None
) -> Iterator[Rows]:
    """Rows of all steps but the last, in order, in chunks of about 65,536; the same for the same seed.

    `state`: an empty one whose rows are wanted, by default a `FeatureState`. Raises ConfigError unless 0 < fraction
    <= 1. Memory: the sequence, its labels and a chunk.
    """
    if not 0.0 < fraction <= 1.0:
        raise ConfigError(f"fraction {fraction:g} of the rows; choose more than 0 and at most 1")
    parts: list[Rows] = []
    state = state or new_state(sequence, meta)
    for part in _steps(sequence, state, fraction, np.random.default_rng(seed)):
        parts.append(part)
        if sum(len(p.target) for p in parts) >= _CHUNK_ROWS:
            yield _join(parts)
            parts = []
    if parts:
        yield _join(parts)


def _steps(sequence: SequenceTrace, state: Features, fraction: float, random: np.random.Generator) -> Iterator[Rows]:
    upcoming, following = next_uses(sequence)
    end = int(sequence.steps[-1])
    for t in range(len(sequence.steps) - 1):
        pages, selected = sequence.pages[t], sequence.selected[t]
        state.observe(int(sequence.lengths[t]), pages, sequence.scores[t], selected)
        advance(upcoming, pages, selected, following[t])
        lanes, chosen = choose(state, fraction * pages.size, random)
        target, censored = log_steps(upcoming[lanes, chosen], int(sequence.steps[t]), end)
        yield Rows(state.rows(lanes, chosen), target, censored, lanes)


def new_state(sequence: SequenceTrace, meta: TraceMeta) -> FeatureState:
    """An empty feature state with room for all pages of `sequence`."""
    return FeatureState(
        layers=meta.layers,
        kv_heads=meta.kv_heads,
        page_size=meta.page_size,
        selected=meta.selected,
        pages=sequence.page_count,
    )


def choose(state: Features, wanted: float, random: np.random.Generator) -> tuple[Int32, Int32]:
    """Draw about `wanted` rows among the pages that could be resident: lanes and pages, ascending."""
    weights = _weights(state.memory.last_used, state.memory.last_seen, state.steps - 1)
    total = float(weights.sum())
    chosen = random.random(weights.shape, np.float32) * total < weights * wanted
    lanes, pages = np.nonzero(chosen)
    return lanes.astype(np.int32), pages.astype(np.int32)


@njit(cache=True, nogil=True)
def _weights(last_used: Int32, last_seen: Int32, step: int) -> Float32:
    lanes, pages = last_used.shape
    weights = np.zeros((lanes, pages), np.float32)
    for lane in range(lanes):
        for page in range(pages):
            used = last_used[lane, page]
            last = max(used, last_seen[lane, page])
            if last != NEVER:
                ordinary = used < step and step - last <= RECENT
                weights[lane, page] = 1.0 if ordinary else RARE
    return weights


def _join(parts: list[Rows]) -> Rows:
    return Rows(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))
