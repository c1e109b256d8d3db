"""A forest on the device: what the reference walks, and the tables that the kernel looks up.

Tables, dense so that another forest of the same plan can take their place while captured graphs hold them:

    ends   [F, B]        upper ends of a column's intervals, ascending, padded with +inf
    masks  [F, B+1, C]   leaves that remain, by interval, NaN last; C = trees * words, a word 32 leaves of a tree
    leaves [32*words, T] leaf values, by place in the tree, so that neighbouring threads read neighbouring words

The padding trees have one leaf of 0. A column that no tree tests leaves everything over.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from hotset.kernels.dispatch import next_power_of_two
from hotset.protos.errors import ModelError
from hotset.protos.forest import FlatForest
from hotset.protos.forest_intervals import Column, tabulate, walk

WORD = 32
MAX_LEAVES = 256
MAX_TREES = 512
MAX_TABLE_BYTES = 1 << 28


class Plan(NamedTuple):
    """Sizes that a captured graph fixes; trees, bins and words are powers of two."""

    features: int
    trees: int
    bins: int
    words: int
    link: int


@dataclass
class DeviceForest:
    """Made by `upload`; all tensors on one device."""

    plan: Plan
    flat: FlatForest  # what the reference walks
    ends: torch.Tensor  # [F, B] float32
    masks: torch.Tensor  # [F, B+1, C] int32
    leaves: torch.Tensor  # [32*words, T] float32
    scale: torch.Tensor  # [1] float32

    @classmethod
    def upload(cls, flat: FlatForest, *, device: torch.device | str = "cpu", least: Plan | None = None) -> DeviceForest:
        """Tables of `flat`, with room for every forest that fits the sizes of `least` too.

        Raises ModelError for more than MAX_TREES trees, MAX_LEAVES leaves a tree, or too large tables.
        """
        trees = [walk(flat, int(root)) for root in flat.roots]
        most = max(len(tree.leaves) for tree in trees)
        if most > MAX_LEAVES or len(trees) > MAX_TREES:
            raise ModelError(f"{len(trees)} trees of up to {most} leaves; the device takes {MAX_TREES} of {MAX_LEAVES}")
        words = next_power_of_two(-(-most // WORD))
        columns = list(tabulate(flat, trees, WORD, words))
        plan = _plan(flat, len(trees), words, max((len(column.ends) for column in columns), default=0), least)
        ends, masks = _by_interval(plan, columns, len(trees))
        leaves = np.zeros((WORD * plan.words, plan.trees), np.float32)
        for i, tree in enumerate(trees):
            leaves[: len(tree.leaves), i] = flat.leaf[tree.leaves]
        parts = (ends, masks, leaves, np.array([flat.scale], np.float32))
        return cls(plan, flat, *(torch.from_numpy(part).to(device) for part in parts))

    def replace(self, other: DeviceForest) -> None:
        """Take over what `other` holds, in place: on CUDA in stream order, so that graphs score by it from here on.

        Raises ModelError if it has another plan; upload it with `least=self.plan`.
        """
        if other.plan != self.plan:
            raise ModelError(f"a forest of {other.plan} does not fit the graphs captured for {self.plan}")
        self.flat = other.flat
        for mine, theirs in zip(self.tables(), other.tables(), strict=True):
            mine.copy_(theirs, non_blocking=True)

    def tables(self) -> tuple[torch.Tensor, ...]:
        """What the kernel reads."""
        return self.ends, self.masks, self.leaves, self.scale


def _plan(flat: FlatForest, trees: int, words: int, ends: int, least: Plan | None) -> Plan:
    plan = Plan(flat.features, next_power_of_two(trees), next_power_of_two(ends + 1), words, flat.link)
    if least is not None:
        plan = plan._replace(
            trees=max(plan.trees, least.trees), bins=max(plan.bins, least.bins), words=max(plan.words, least.words)
        )
    size = plan.features * (plan.bins + 1) * plan.trees * plan.words * 4
    if size > MAX_TABLE_BYTES:
        raise ModelError(f"the forest's tables would take {size >> 20} MiB of {MAX_TABLE_BYTES >> 20}; use fewer trees")
    return plan


def _by_interval(
    plan: Plan, columns: list[Column], trees: int
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int32]]:
    ends = np.full((plan.features, plan.bins), np.inf, np.float32)
    masks = np.full((plan.features, plan.bins + 1, plan.trees, plan.words), -1, np.int32)
    for column in columns:
        words = column.masks.astype(np.uint32).view(np.int32)
        known, own = len(column.ends), words.shape[2]
        ends[column.number, :known] = column.ends
        masks[column.number, : known + 1, :trees, :own] = words[:-1]
        masks[column.number, plan.bins, :trees, :own] = words[-1]
    return ends, masks.reshape(plan.features, plan.bins + 1, -1)
