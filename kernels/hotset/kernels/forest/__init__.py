"""Forest: the predictions of a LightGBM forest for many rows."""

from __future__ import annotations

import torch

from hotset.kernels.dispatch import require, use_kernel
from hotset.kernels.forest import intervals
from hotset.kernels.forest.tables import DeviceForest, Plan

__all__ = ["DeviceForest", "Plan", "forest"]


def forest(model: DeviceForest, rows: torch.Tensor) -> torch.Tensor:
    """Predictions [m] float32 for `rows` [m, F] float32, which may have any strides.

    The kernel reads a column of neighbouring rows at a time, so a transposed [F, m] tensor (`columns.T`) is the
    layout that it likes. Missing values are NaN. Equal to LightGBM's `Booster.predict` within float32's error of
    a sum over trees. A row's result depends on nothing but the row. Raises ValueError if rows do not fit the forest.
    """
    fits = rows.dim() == 2 and rows.shape[1] == model.plan.features and rows.dtype == torch.float32
    require(fits, f"rows must be [m, {model.plan.features}] float32, not {tuple(rows.shape)} {rows.dtype}")
    require(rows.device == model.ends.device, f"rows are on {rows.device}, the forest is on {model.ends.device}")
    if use_kernel(rows) and rows.shape[0]:
        from hotset.kernels.forest import kernel

        return kernel.launch(model, rows)
    return intervals.predict(model, rows)
