"""The forest kernel beside LightGBM's own Booster.predict, on a forest that LightGBM grew."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

import lightgbm as lgb
import numpy as np
import torch

from hotset.kernels.forest import DeviceForest, forest
from hotset.kernels.measure import Row, graph_us
from hotset.predictor import recipe
from hotset.predictor.forest import Forest

COLUMNS = 24
_TRAINED, _REPEATS = 100_000, 5


def run() -> list[Row]:
    """One layer's 16K rows and a million rows, 32 trees of 31 leaves: kernel, Booster.predict, largest difference."""
    random = np.random.default_rng(0)
    rows = random.normal(size=(_TRAINED, COLUMNS)).astype(np.float32)
    rows[random.random(rows.shape) < 0.1] = np.nan
    label = np.nan_to_num(rows).sum(1) + random.normal(size=len(rows))
    booster = lgb.train(recipe.lightgbm_params(), lgb.Dataset(rows, label), recipe.TREES)
    return [_case(booster, np.resize(rows, (count, COLUMNS))) for count in (1 << 14, 1 << 20)]


def _case(booster: lgb.Booster, rows: np.ndarray) -> Row:
    model = DeviceForest.upload(Forest.from_booster(booster).to_arrays(), device="cuda")
    columns = torch.from_numpy(np.ascontiguousarray(rows.T)).cuda()
    us = graph_us(lambda _: forest(model, columns.T))
    cores = os.cpu_count() or 1
    exact = np.asarray(booster.predict(rows, num_threads=cores))
    one = _least_us(lambda: booster.predict(rows[: 1 << 14], num_threads=1)) * len(rows) / (1 << 14)
    return {
        "rows": len(rows),
        "kernel us": us,
        "Booster.predict, 1 thread us": one,
        f"Booster.predict, {cores} threads us": _least_us(lambda: booster.predict(rows, num_threads=cores)),
        "largest difference": float(np.abs(forest(model, columns.T).cpu().numpy() - exact).max()),
    }


def _least_us(run_once: Callable[[], object]) -> float:
    times = []
    for _ in range(_REPEATS):
        began = time.perf_counter()
        run_once()
        times.append((time.perf_counter() - began) * 1e6)
    return min(times)
