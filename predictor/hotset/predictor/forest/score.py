"""The scoring loop (compiled). Method: forest/tables.py."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from numba import njit

from hotset.predictor.features.bits import lowest_bit
from hotset.predictor.forest.tables import Tables
from hotset.protos.forest import ZERO

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]

_ZERO = np.float32(ZERO)
_BLOCK = 64
"""rows whose interval search is done together, so that it runs on vector units"""


@njit(cache=True, boundscheck=False, nogil=True)
def add_scores(rows: Float32, tables: Tables, total: Float64) -> None:
    """Add the sum of one leaf a tree to total [m], for rows [m, F]."""
    columns, words = len(tables.column), tables.mask.shape[1]
    trees = len(tables.leaf)
    words_per_tree = words // trees
    interval = np.empty((_BLOCK, columns), np.int32)
    value, found = np.empty(_BLOCK, np.float32), np.empty(_BLOCK, np.int32)
    remaining = np.empty(words, np.uint64)
    for first in range(0, len(rows), _BLOCK):
        count = min(_BLOCK, len(rows) - first)
        for k in range(columns):
            for r in range(count):
                raw = rows[first + r, tables.column[k]]
                value[r] = np.float32(0.0) if abs(raw) <= _ZERO else raw
                found[r] = tables.first_mask[k]
            for j in range(tables.first_threshold[k], tables.first_threshold[k + 1]):
                limit = tables.threshold[j]
                for r in range(count):
                    found[r] += np.int32(value[r] > limit)
            for_nan = tables.first_mask[k] + tables.first_threshold[k + 1] - tables.first_threshold[k] + 1
            for r in range(count):
                interval[r, k] = for_nan if np.isnan(value[r]) else found[r]
        for r in range(count):
            for w in range(words):
                remaining[w] = np.uint64(0xFFFFFFFFFFFFFFFF)
            for k in range(columns):
                mask = interval[r, k]
                for w in range(words):
                    remaining[w] &= tables.mask[mask, w]
            for tree in range(trees):
                word = 0
                while remaining[tree * words_per_tree + word] == 0:
                    word += 1
                bit = lowest_bit(remaining[tree * words_per_tree + word])
                total[first + r] += tables.leaf[tree, word * 64 + bit]
