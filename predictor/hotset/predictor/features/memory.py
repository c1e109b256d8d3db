"""What is remembered of each page of each lane of one sequence. All decay is lazy: as of the event's step."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from hotset.protos.features import GAPS, HALF_LIVES, SCORE_DECAYS

Int32 = npt.NDArray[np.int32]
Float32 = npt.NDArray[np.float32]
UInt8 = npt.NDArray[np.uint8]
Bool = npt.NDArray[np.bool_]

NEVER = -1


class PageMemory(NamedTuple):
    """Dense per lane [L, P] or per layer [layers, P]; steps count from 0 at the first one observed."""

    last_used: Int32
    """[L, P] step of the last selection, NEVER before it"""
    gaps: Int32
    """[L, P, GAPS] newest first, 0 for none"""
    streak: Int32
    """[L, P]"""
    uses: Int32
    """[L, P]"""
    counts: Float32
    """[L, P, half-lives] as of last_used"""
    last_seen: Int32
    """[L, P] step of the last candidacy, NEVER before it"""
    last_score: UInt8
    """[L, P]"""
    score_before: Int32
    """[L, P] score of the candidacy before the last, -1 if there was none"""
    averages: Float32
    """[L, P, decays] score averages as of last_seen"""
    margin: Float32
    """[L, P] margin average as of last_seen"""
    near: Float32
    """[L, P] decayed count of candidacies without selection, as of near_at"""
    near_at: Int32
    """[L, P]"""
    selecting: Int32
    """[layers, P] heads that select the page at this step"""
    selected_before: Int32
    """[layers, P] the same at the step before"""
    below: Int32
    """[layers + 1, P] sum of `selecting` over layers below"""
    above: Int32
    """[layers + 1, P] sum of `selected_before` over layers from this one up"""
    heat: Float32
    """[layers, P] decayed count of uses by all heads of a layer, as of this step"""
    heat_before: Float32
    """[layers, P] the same as of the step before"""
    heat_sum: Float32
    """[layers, P] over all layers, as of the turn of this one"""

    @property
    def pages(self) -> int:
        """Pages that fit."""
        return int(self.last_used.shape[1])


class LaneMemory(NamedTuple):
    """What is remembered of each lane, [L]."""

    threshold: Float32
    floor: Float32
    turnover: Float32
    churn: Float32


def make_pages(lanes: int, layers: int, pages: int) -> PageMemory:
    """Nothing used or seen yet."""

    def ints(rows: int, value: int = 0) -> Int32:
        return np.full((rows, pages), value, np.int32)

    def floats(*shape: int) -> Float32:
        return np.zeros(shape, np.float32)

    return PageMemory(
        last_used=ints(lanes, NEVER),
        gaps=np.zeros((lanes, pages, GAPS), np.int32),
        streak=ints(lanes),
        uses=ints(lanes),
        counts=floats(lanes, pages, len(HALF_LIVES)),
        last_seen=ints(lanes, NEVER),
        last_score=np.zeros((lanes, pages), np.uint8),
        score_before=ints(lanes, -1),
        averages=floats(lanes, pages, len(SCORE_DECAYS)),
        margin=floats(lanes, pages),
        near=floats(lanes, pages),
        near_at=ints(lanes, NEVER),
        selecting=ints(layers),
        selected_before=ints(layers),
        below=ints(layers + 1),
        above=ints(layers + 1),
        heat=floats(layers, pages),
        heat_before=floats(layers, pages),
        heat_sum=floats(layers, pages),
    )


def make_lanes(lanes: int) -> LaneMemory:
    """Nothing observed yet: a churn of NaN is replaced by the first turnover."""
    nan = np.full(lanes, np.nan, np.float32)
    return LaneMemory(nan, nan.copy(), nan.copy(), nan.copy())


def grown(memory: PageMemory, pages: int) -> PageMemory:
    """A copy that holds `pages` pages."""
    layers, lanes = memory.heat.shape[0], memory.last_used.shape[0]
    larger = make_pages(lanes, layers, pages)
    for name in PageMemory._fields:
        getattr(larger, name)[:, : memory.pages] = getattr(memory, name)
    return larger
