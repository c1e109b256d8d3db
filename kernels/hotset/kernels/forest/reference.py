"""Torch reference of forest: every row walks every tree, node by node."""

from __future__ import annotations

import torch

from hotset.protos.forest import EXP, NAN_LEFT, SIGMOID, ZERO, ZERO_IS_MISSING, FlatForest


def predict(flat: FlatForest, rows: torch.Tensor) -> torch.Tensor:
    """See the public function; [m] float32."""

    def on_device(name: str) -> torch.Tensor:
        return torch.tensor(getattr(flat, name), device=rows.device)

    feature, left, right = (on_device(name).long() for name in ("feature", "left", "right"))
    threshold, flags, leaf = (on_device(name) for name in ("threshold", "flags", "leaf"))
    at = on_device("roots").long().expand(len(rows), -1).clone()
    while (inner := at >= 0).any():
        row, tree = torch.nonzero(inner, as_tuple=True)
        node = at[row, tree]
        left_there = _goes_left(rows[row, feature[node]], threshold[node], flags[node])
        at[row, tree] = torch.where(left_there, left[node], right[node])
    raw = leaf[~at].sum(1) * flat.scale
    return link(raw, flat.link).float()


def _goes_left(value: torch.Tensor, threshold: torch.Tensor, flags: torch.Tensor) -> torch.Tensor:
    value = torch.where(value.abs() <= ZERO, 0.0, value)
    missing = value.isnan() | (((flags & ZERO_IS_MISSING) > 0) & (value == 0.0))
    return torch.where(missing, (flags & NAN_LEFT) > 0, value <= threshold)


def link(raw: torch.Tensor, kind: int) -> torch.Tensor:
    """The link function of `hotset.protos.forest`."""
    if kind == SIGMOID:
        return torch.sigmoid(raw)
    return torch.exp(raw) if kind == EXP else raw
