"""What the device knows of a page: 16 bytes, updated inside the step, and the columns that are made of them.

Columns are a part of `hotset.protos.features` and `hotset.protos.lookahead`, of the same meaning. What is exact there
and fits is exact here; averages and counts are rounded to a unit after each event. All of it is integer arithmetic, so
that numpy, torch and the GPU hold the same bits; `hotset.predictor.device` and `hotset.kernels.page_features`
implement it.

A page of a lane takes four 32-bit words, all 0 before it is first a candidate. Steps count from 0 when the sequence is
first observed, and must stay below LAST_STEP.

    word  bits 0..15                                          bits 16..31
    0     step when last a candidate, plus 1 (bits 0..23)     score then (bits 24..31)
    1     steps from last use to last candidacy, UNUSED       gap_1 as of the last use, 0 if there is none
    2     count_8 in 1/4096, as of the last use               count_32 in 1/1024
    3     score average in 1/256, as of the last candidacy    margin average in 1/128

After n steps a count or average q is `(q * DECAY[n] + 2^14) >> 15`, DECAY[n] = round(2^15 * factor^n). A use adds one
unit count. A candidacy makes an average of unit u `(q * DECAY[n] + u * x * NEW_WEIGHT + 2^14) >> 15`.
"""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt

from hotset.protos import heat
from hotset.protos.features import FEATURES, SCORE_DECAYS, Feature
from hotset.protos.lookahead import LOOKAHEAD_FEATURES

DEVICE_FEATURES_VERSION = 1
WORDS = 4
"""of 32 bits, a page"""
LAST_STEP = (1 << 24) - 1
UNUSED = (1 << 16) - 1
LONGEST = UNUSED - 1
"""steps from last use to last candidacy, and a gap, are told from longer ones up to here"""
ONE = 1 << 15
"""a decay of nothing"""
HALF_LIVES = (8, 32)
COUNT_UNITS = (4096, 1024)
"""parts of a use that count_8 and count_32 are kept in"""
SCORE_UNIT, MARGIN_UNIT = 256, 128
"""parts of a score and of a margin that their averages are kept in"""
AVERAGE_DECAY = SCORE_DECAYS[1]
NEW_WEIGHT = ONE - round(ONE * AVERAGE_DECAY)
"""of what an average takes in"""
DECAY_STEPS = 513
"""of the tables; after the last nothing is left"""

BOUNDS = {"count_8": 0.004, "count_32": 0.07, "score_ema_0.7": 0.02, "margin_ema": 0.03}
"""largest difference from the same column of `hotset.protos.features`; every other column is equal"""


def decay_tables() -> npt.NDArray[np.int32]:
    """[3, DECAY_STEPS]: of count_8, of count_32, and of both averages, by steps."""
    factors = [2.0 ** (-1.0 / half_life) for half_life in HALF_LIVES] + [AVERAGE_DECAY]
    steps = np.arange(DECAY_STEPS)
    left = np.rint(ONE * np.array(factors)[:, None] ** steps).astype(np.int32)
    left[:, -1] = 0
    return left


_PAGE = (
    *(
        "age",
        "gap_1",
        "count_8",
        "count_32",
        "score",
        "last_score",
        "seen_age",
        "margin",
        "score_ema_0.7",
        "margin_ema",
    ),
    *("from_end", "position", "previous_age", "next_age", "previous_score", "next_score"),
    *("turnover", "churn", "threshold", "spread", "layer"),
)
_RANK = ("rank", "rank_gain", "recall", "news", "news_share", "turns_ranked")


def _named(features: tuple[Feature, ...], names: tuple[str, ...]) -> tuple[Feature, ...]:
    by_name = {feature.name: feature for feature in features}
    return tuple(by_name[name] for name in names)


PAGE_FEATURES: tuple[Feature, ...] = _named(FEATURES, _PAGE)
"""Columns of the head that tells the next use."""
RANK_FEATURES: tuple[Feature, ...] = _named(LOOKAHEAD_FEATURES, _RANK)
"""What a lookahead adds."""
DEVICE_FEATURES: tuple[Feature, ...] = PAGE_FEATURES + RANK_FEATURES
"""Columns of the head that tells whether a ranked page is used at this step."""


def _hash(features: tuple[Feature, ...]) -> str:
    lines = [f"device version {DEVICE_FEATURES_VERSION}", *(f"{f.name}: {f.meaning}" for f in features)]
    sizes = f"{WORDS} {ONE} {HALF_LIVES} {COUNT_UNITS} {SCORE_UNIT} {MARGIN_UNIT} {AVERAGE_DECAY} {heat.FLOOR}"
    return hashlib.sha256("\n".join([*lines, sizes]).encode()).hexdigest()


PAGE_FEATURES_HASH = _hash(PAGE_FEATURES)
DEVICE_FEATURES_HASH = _hash(DEVICE_FEATURES)
"""Change whenever a column's name, meaning or place does, or how it is kept. A forest for another hash is refused."""

assert heat.DECAY == AVERAGE_DECAY, "both averages share a table"
