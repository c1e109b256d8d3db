"""The kernel's way on a CPU, compiled: an interval search and one AND of leaf masks a column. See kernel.py."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numba import njit

from hotset.kernels.forest.reference import link
from hotset.kernels.forest.tables import WORD, DeviceForest
from hotset.protos.forest import ZERO

_ZERO = np.float32(ZERO)
_WORD = WORD


def predict(model: DeviceForest, rows: torch.Tensor) -> torch.Tensor:
    """See the public function; [m] float32."""
    plan, total = model.plan, np.zeros(len(rows))
    tables = (model.ends.numpy(), model.masks.numpy(), model.leaves.numpy())
    _add_leaves(rows.T.numpy(), *tables, plan.trees, plan.words, total)
    return link(torch.from_numpy(total) * float(model.flat.scale), plan.link).float()


@njit(cache=True, nogil=True)
def _add_leaves(columns: Any, ends: Any, masks: Any, leaves: Any, trees: int, words: int, total: Any) -> None:
    """Add the leaf of every tree to total [m], for columns [F, m]; tables as DeviceForest has them."""
    count, bins = columns.shape[1], ends.shape[1]
    left = np.empty(trees * words, np.int32)
    for row in range(count):
        left[:] = -1
        for column in range(len(ends)):
            value = columns[column, row]
            if abs(value) <= _ZERO:
                value = np.float32(0.0)
            place = bins
            if not np.isnan(value):
                place = np.searchsorted(ends[column], value)
            mask = masks[column, place]
            for i in range(len(left)):
                left[i] &= mask[i]
        for tree in range(trees):
            word = 0
            while left[tree * words + word] == 0:
                word += 1
            total[row] += leaves[word * _WORD + _lowest_bit(left[tree * words + word]), tree]


@njit(cache=True, inline="always")
def _lowest_bit(word: int) -> int:
    bits, place = np.uint32(word), 0
    while bits & np.uint32(1) == 0:
        bits >>= np.uint32(1)
        place += 1
    return place
