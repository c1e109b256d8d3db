"""Tables that turn a forest walk into a few lookups.

The method is that of `hotset.protos.forest_intervals`: a row costs one interval search and one AND a feature, without
an unpredictable branch.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from hotset.protos.forest import FlatForest
from hotset.protos.forest_intervals import Tree, tabulate, walk

TREES_PER_GROUP = 16
"""a table has trees * nodes entries, so that a large forest is cut into groups"""
_WORD = 64


class Tables(NamedTuple):
    """One group of T trees of at most 64 * W leaves, testing K features."""

    column: npt.NDArray[np.int32]
    """[K] columns that are tested"""
    first_threshold: npt.NDArray[np.int32]
    """[K+1] of each column in `threshold`"""
    threshold: npt.NDArray[np.float32]
    """[B] ascending for each column"""
    first_mask: npt.NDArray[np.int32]
    """[K] of each column in `mask`: one for each interval, then one for NaN"""
    mask: npt.NDArray[np.uint64]
    """[B + 2K, T * W] leaves that remain"""
    leaf: npt.NDArray[np.float64]
    """[T, 64 * W]"""


def build_tables(forest: FlatForest) -> list[Tables]:
    """The tables of all groups. Raises ModelError for a tree of more than MAX_LEAVES leaves."""
    trees = [walk(forest, int(root)) for root in forest.roots]
    starts = range(0, len(trees), TREES_PER_GROUP)
    return [_group(forest, trees[at : at + TREES_PER_GROUP]) for at in starts]


def _group(forest: FlatForest, trees: list[Tree]) -> Tables:
    words = max(-(-len(tree.leaves) // _WORD) for tree in trees)
    leaf = np.zeros((len(trees), _WORD * words))
    for i, tree in enumerate(trees):
        leaf[i, : len(tree.leaves)] = forest.leaf[tree.leaves]
    columns = list(tabulate(forest, trees, _WORD, words))
    counts = np.array([len(column.ends) for column in columns], np.int64)
    none = np.empty((0, len(trees) * words), np.uint64)
    return Tables(
        np.array([column.number for column in columns], np.int32),
        np.concatenate([[0], np.cumsum(counts)]).astype(np.int32),
        np.concatenate([np.empty(0, np.float32), *(column.ends for column in columns)]),
        (np.cumsum(counts + 2) - counts - 2).astype(np.int32),
        np.concatenate([none, *(column.masks.reshape(len(column.masks), -1) for column in columns)]),
        leaf,
    )
