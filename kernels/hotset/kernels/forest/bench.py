"""Bench of forest: rows/s in a captured graph, beside the bytes that it must read and a search of the same rows."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from hotset.kernels.forest import DeviceForest, forest
from hotset.kernels.measure import Row, graph_us
from hotset.protos.forest import SIGMOID, FlatForest

Ints = npt.NDArray[np.int32]

COLUMNS = 24
BINS = 127
# (trees, leaves, rows): one layer of a batch, a million rows, and other sizes of forest.
CASES = [(32, 31, 1024), (32, 31, 16384), (32, 31, 1 << 20), (64, 31, 16384), (64, 63, 16384), (16, 255, 16384)]


def run() -> list[Row]:
    """Microseconds, rows/s, and the least time that reading each row's masks from the L1 caches takes."""
    return [_case(*case) for case in CASES]


def _case(trees: int, leaves: int, count: int) -> Row:
    model = DeviceForest.upload(random_forest(trees, leaves), device="cuda")
    rows = torch.randn(COLUMNS, count, device="cuda").T
    flat = rows.contiguous()
    us = graph_us(lambda _: forest(model, rows))
    masks = count * COLUMNS * model.plan.trees * model.plan.words * 4
    properties = torch.cuda.get_device_properties(0)
    # An SM reads 128 bytes a cycle from its L1 cache.
    l1 = properties.multi_processor_count * 128 * 1.755e3
    return {
        "trees": trees,
        "leaves": leaves,
        "rows": count,
        "us": us,
        "us, row by row": graph_us(lambda _: forest(model, flat)),
        "Mrows/s": count / us,
        "masks MB": masks / 1e6,
        "masks at L1 rate us": masks / l1,
        "error": _error(model, rows),
    }


def _error(model: DeviceForest, rows: torch.Tensor) -> float:
    """Largest difference from the reference's walk, on some rows."""
    some = rows[:2048].cpu()
    walked = forest(DeviceForest.upload(model.flat), some)
    return float((forest(model, rows)[:2048].cpu() - walked).abs().max())


def random_forest(trees: int, leaves: int, *, columns: int = COLUMNS, link: int = SIGMOID) -> FlatForest:
    """Trees that split random leaves at one of BINS values a column, as LightGBM's leaf-wise growth does."""
    random = np.random.default_rng(0)
    values = np.sort(random.normal(size=(columns, BINS)), 1).astype(np.float32)
    feature = random.integers(0, columns, trees * (leaves - 1)).astype(np.int32)
    left, right = np.empty_like(feature), np.empty_like(feature)
    for tree in range(trees):
        _grow(random, left, right, tree * (leaves - 1), tree * leaves, leaves)
    return FlatForest(
        features=columns,
        features_hash="",
        link=link,
        scale=1.0,
        roots=np.arange(0, len(feature), leaves - 1, dtype=np.int32),
        feature=feature,
        threshold=values[feature, random.integers(0, BINS, len(feature))],
        flags=random.integers(0, 2, len(feature)).astype(np.uint8),
        left=left,
        right=right,
        leaf=random.normal(size=trees * leaves) / trees,
    )


def _grow(random: np.random.Generator, left: Ints, right: Ints, node: int, leaf: int, leaves: int) -> None:
    """Each new node takes the place of a random leaf of the tree so far."""
    places: list[tuple[Ints, int]] = []
    for i in range(leaves - 1):
        if places:
            side, at = places.pop(int(random.integers(len(places))))
            side[at] = node + i
        places += [(left, node + i), (right, node + i)]
    for i, (side, at) in enumerate(places):
        side[at] = ~(leaf + i)
