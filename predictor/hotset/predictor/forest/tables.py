"""Tables that turn a forest walk into a few lookups.

After QuickScorer (Lucchese et al., SIGIR 2015): a tree is a bit vector of its leaves in order. Each node that sends
a row right removes the leaves of its left subtree; the first leaf left over is where the row ends. Here
the removals of all nodes that test a feature are tabulated by the interval between their thresholds in which the
value falls, so that a row costs one interval search and one AND a feature, without an unpredictable branch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from hotset.predictor.forest.parse import goes_left
from hotset.protos.errors import ModelError
from hotset.protos.forest import ZERO, ZERO_IS_MISSING, FlatForest

TREES_PER_GROUP = 16
"""a table has trees * nodes entries, so that a large forest is cut into groups"""
_WORD = 64
MAX_LEAVES = 1 << 12


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


@dataclass(frozen=True)
class _Tree:
    """Nodes of one tree in any order, and its leaf values from left to right."""

    nodes: npt.NDArray[np.int32]
    removed: list[int]
    """for each node, the leaves of its left subtree as bits"""
    leaves: list[int]


def build_tables(forest: FlatForest) -> list[Tables]:
    """The tables of all groups. Raises ModelError for a tree of more than MAX_LEAVES leaves."""
    trees = [_walk(forest, int(root)) for root in forest.roots]
    starts = range(0, len(trees), TREES_PER_GROUP)
    return [_group(forest, trees[at : at + TREES_PER_GROUP]) for at in starts]


def _walk(forest: FlatForest, root: int) -> _Tree:
    """Depth first, left before right; without recursion, as a damaged tree may be one long path."""
    nodes: list[int] = []
    starts: dict[int, int] = {}
    spans: dict[int, tuple[int, int]] = {}
    leaves: list[int] = []
    stack = [(root, "enter")]
    while stack:
        at, event = stack.pop()
        if at < 0:
            leaves.append(~at)
            if len(leaves) > MAX_LEAVES:
                raise ModelError(f"forest: a tree of more than {MAX_LEAVES} leaves")
        elif event == "enter":
            nodes.append(at)
            starts[at] = len(leaves)
            stack += [(int(forest.right[at]), "enter"), (at, "left done"), (int(forest.left[at]), "enter")]
        else:
            spans[at] = (starts[at], len(leaves))
    removed = [((1 << spans[node][1]) - (1 << spans[node][0])) for node in nodes]
    return _Tree(np.array(nodes, np.int32), removed, leaves)


def _group(forest: FlatForest, trees: list[_Tree]) -> Tables:
    words = max(-(-len(tree.leaves) // _WORD) for tree in trees)
    nodes = np.concatenate([tree.nodes for tree in trees])
    owner = np.repeat(np.arange(len(trees)), [len(tree.nodes) for tree in trees])
    removed = np.zeros((len(nodes), len(trees), words), np.uint64)
    bits = [mask for tree in trees for mask in tree.removed]
    for word in range(words):
        part = [(mask >> (_WORD * word)) & (2**_WORD - 1) for mask in bits]
        removed[np.arange(len(nodes)), owner, word] = np.array(part, np.uint64)
    leaf = np.zeros((len(trees), _WORD * words))
    for i, tree in enumerate(trees):
        leaf[i, : len(tree.leaves)] = forest.leaf[tree.leaves]
    return _tabulate(forest, nodes, removed.reshape(len(nodes), len(trees) * words), leaf)


def _tabulate(
    forest: FlatForest,
    nodes: npt.NDArray[np.int32],
    removed: npt.NDArray[np.uint64],
    leaf: npt.NDArray[np.float64],
) -> Tables:
    columns = np.unique(forest.feature[nodes])
    thresholds: list[npt.NDArray[np.float32]] = []
    masks: list[npt.NDArray[np.uint64]] = []
    for column in columns:
        mine = forest.feature[nodes] == column
        limits = _limits(forest.threshold[nodes[mine]], forest.flags[nodes[mine]])
        thresholds.append(limits)
        # The upper end of an interval stands for all of it: intervals are open below and closed above.
        values = np.concatenate([limits, np.array([np.inf, np.nan], np.float32)])
        masks.append(np.stack([_remaining(forest, nodes[mine], removed[mine], value) for value in values]))
    counts = np.array([len(limits) for limits in thresholds], np.int64)
    none = np.empty((0, removed.shape[1]), np.uint64)
    return Tables(
        columns.astype(np.int32),
        np.concatenate([[0], np.cumsum(counts)]).astype(np.int32),
        np.concatenate([np.empty(0, np.float32), *thresholds]),
        (np.cumsum(counts + 2) - counts - 2).astype(np.int32),
        np.concatenate([none, *masks]),
        leaf,
    )


def _limits(threshold: npt.NDArray[np.float32], flags: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Scoring has turned what counts as 0 into 0, so no value lies from -ZERO to below 0."""
    zero = np.float32(ZERO)
    below_zero = np.nextafter(-zero, np.float32(-np.inf))
    limits = np.where((threshold >= -zero) & (threshold < 0), below_zero, threshold)
    if bool((flags & ZERO_IS_MISSING).any()):
        limits = np.concatenate([limits, np.array([below_zero, zero])])
    return np.unique(limits[limits < np.inf])


def _remaining(
    forest: FlatForest, nodes: npt.NDArray[np.int32], removed: npt.NDArray[np.uint64], value: np.float32
) -> npt.NDArray[np.uint64]:
    left = goes_left(np.full(len(nodes), value, np.float32), forest.threshold[nodes], forest.flags[nodes])
    gone: npt.NDArray[np.uint64] = np.bitwise_or.reduce(removed[~left], axis=0, initial=np.uint64(0))
    return ~gone
