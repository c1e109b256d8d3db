"""A forest as intervals of its columns: which leaves of a tree are left over where a value falls.

After QuickScorer (Lucchese et al., SIGIR 2015): a tree is a bit vector of its leaves in order. Each node that sends
a row right removes the leaves of its left subtree; the first leaf left over is where the row ends. The removals of
all nodes that test a column depend only on the interval between their thresholds in which the value falls. The
predictor's compiled loop and the device kernel tabulate them in layouts of their own.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from hotset.protos.errors import ModelError
from hotset.protos.forest import NAN_LEFT, ZERO, ZERO_IS_MISSING, FlatForest

MAX_LEAVES = 1 << 12


@dataclass(frozen=True)
class Tree:
    """Nodes of one tree in any order, and its leaf values from left to right."""

    nodes: npt.NDArray[np.int32]
    removed: list[int]
    """for each node, the leaves of its left subtree as bits"""
    leaves: list[int]


def walk(forest: FlatForest, root: int) -> Tree:
    """The tree at `root`. Raises ModelError for one of more than MAX_LEAVES leaves."""
    # Depth first, left before right; without recursion, as a damaged tree may be one long path.
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
    return Tree(np.array(nodes, np.int32), removed, leaves)


class Column(NamedTuple):
    """What all trees leave over by the value of one column."""

    number: int
    ends: npt.NDArray[np.float32]
    """upper ends of its intervals, ascending; the last interval has none"""
    masks: npt.NDArray[np.uint64]
    """[len(ends) + 2, T, W] leaves that remain, lowest first: a row for each interval, then one for NaN"""


def tabulate(forest: FlatForest, trees: list[Tree], bits: int, words: int) -> Iterator[Column]:
    """The columns that T `trees` test, as words of `bits` (at most 64) bits, `words` a tree."""
    nodes = np.concatenate([tree.nodes for tree in trees])
    owner = np.repeat(np.arange(len(trees)), [len(tree.nodes) for tree in trees])
    removed = np.zeros((len(nodes), len(trees), words), np.uint64)
    masks = [mask for tree in trees for mask in tree.removed]
    for word in range(words):
        part = [(mask >> (bits * word)) & (2**bits - 1) for mask in masks]
        removed[np.arange(len(nodes)), owner, word] = np.array(part, np.uint64)
    for number in np.unique(forest.feature[nodes]).tolist():
        mine = forest.feature[nodes] == number
        ends = _limits(forest.threshold[nodes[mine]], forest.flags[nodes[mine]])
        # The upper end of an interval stands for all of it: intervals are open below and closed above.
        values = np.concatenate([ends, np.array([np.inf, np.nan], np.float32)])
        rows = [_remaining(forest, nodes[mine], removed[mine], value) for value in values]
        yield Column(number, ends, np.stack(rows) & np.uint64(2**bits - 1))


def _limits(threshold: npt.NDArray[np.float32], flags: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Scoring has turned what counts as 0 into 0, so no value lies from -ZERO to below 0."""
    zero = np.float32(ZERO)
    below_zero = np.nextafter(-zero, np.float32(-np.inf))
    found = np.where((threshold >= -zero) & (threshold < 0), below_zero, threshold)
    if bool((flags & ZERO_IS_MISSING).any()):
        found = np.concatenate([found, np.array([below_zero, zero])])
    return np.unique(found[found < np.inf])


def _remaining(
    forest: FlatForest, nodes: npt.NDArray[np.int32], removed: npt.NDArray[np.uint64], value: np.float32
) -> npt.NDArray[np.uint64]:
    left = goes_left(np.full(len(nodes), value, np.float32), forest.threshold[nodes], forest.flags[nodes])
    gone: npt.NDArray[np.uint64] = np.bitwise_or.reduce(removed[~left], axis=0, initial=np.uint64(0))
    return ~gone


def goes_left(
    value: npt.NDArray[np.float32], threshold: npt.NDArray[np.float32], flags: npt.NDArray[np.uint8]
) -> npt.NDArray[np.bool_]:
    """The decision at nodes, as stated in `hotset.protos.forest`."""
    value = np.where(np.abs(value) <= np.float32(ZERO), np.float32(0.0), value)
    missing = np.isnan(value) | (((flags & ZERO_IS_MISSING) > 0) & (value == 0.0))
    left: npt.NDArray[np.bool_] = np.where(missing, (flags & NAN_LEFT) > 0, value <= threshold)
    return left
