"""The kernel's way in torch, for CPUs: an interval search and one AND of leaf masks a column. See kernel.py."""

from __future__ import annotations

import torch

from hotset.kernels.forest.reference import link
from hotset.kernels.forest.tables import WORD, DeviceForest
from hotset.protos.forest import ZERO

_ROWS = 4096
"""rows at once, so that their masks stay in the caches"""


def predict(model: DeviceForest, rows: torch.Tensor) -> torch.Tensor:
    """See the public function; [m] float32."""
    parts = [_predict(model, part) for part in torch.split(rows, _ROWS)]
    return torch.cat(parts) if parts else rows.new_empty(0)


def _predict(model: DeviceForest, rows: torch.Tensor) -> torch.Tensor:
    plan, columns = model.plan, rows.T.contiguous()
    columns = torch.where(columns.abs() <= ZERO, 0.0, columns)
    found = torch.where(columns.isnan(), plan.bins, torch.searchsorted(model.ends, columns))
    left = model.masks[0].index_select(0, found[0])
    for column in range(1, plan.features):
        left &= model.masks[column].index_select(0, found[column])
    leaf = _lowest_bit(left).view(-1, plan.trees, plan.words)
    leaf = (leaf + WORD * torch.arange(plan.words, device=leaf.device)).amin(-1)
    values = model.leaves.gather(0, leaf)
    return link(values.double().sum(1) * float(model.flat.scale), plan.link).float()


def _lowest_bit(word: torch.Tensor) -> torch.Tensor:
    """Place of the lowest set bit of int32 words, more than there are leaves for 0."""
    power = (word & -word).float()
    place = ((power.view(torch.int32) >> 23) & 0xFF) - 127
    return torch.where(word == 0, 1 << 30, place).long()
