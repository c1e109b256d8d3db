"""forest: kernel and reference against Booster.predict, whatever the trees, the values and the layout of rows."""

from __future__ import annotations

import lightgbm as lgb
import numpy as np
import numpy.typing as npt
import pytest
import torch

from hotset.kernels.forest import DeviceForest, forest, intervals, reference
from hotset.predictor.forest import Forest
from hotset.protos.errors import ModelError
from hotset.protos.forest import FlatForest

Floats = npt.NDArray[np.float32]


def _rows(random: np.random.Generator, count: int, columns: int) -> Floats:
    """Coarse values, so that many equal a threshold; NaN, zeros, infinities and denormals among them."""
    rows = random.normal(size=(count, columns)).round(2).astype(np.float32)
    odd = np.array([np.nan, 0.0, -0.0, np.inf, -np.inf, 1e-40, -1e-35, 2e-35], np.float32)
    strange = random.random(rows.shape) < 0.2
    rows[strange] = random.choice(odd, int(strange.sum()))
    return rows


def _booster(
    seed: int, columns: int, *, leaves: int, trees: int, objective: str = "regression", zero: bool = False
) -> lgb.Booster:
    random = np.random.default_rng(seed)
    rows = _rows(random, 3000, columns)
    label = np.nan_to_num(np.clip(rows, -9, 9)).sum(axis=1) + random.normal(size=len(rows))
    if objective == "binary":
        label = (label > 0).astype(np.float64)
    if objective == "poisson":
        label = np.abs(label)
    params = {"objective": objective, "num_leaves": leaves, "min_data_in_leaf": 5, "zero_as_missing": zero}
    return lgb.train(params | {"verbosity": -1, "num_threads": 1}, lgb.Dataset(rows, label), trees)


def _flat(booster: lgb.Booster) -> FlatForest:
    return Forest.from_booster(booster).to_arrays()


# 31 leaves fill one word but for one bit, 33 need two, 255 eight; 5 and 33 trees are padded to 8 and 64; 24 columns are
# those of the device, 1 has no other; 100 rows leave a part of the last block.
@pytest.mark.parametrize(
    ("leaves", "trees", "columns", "objective", "zero"),
    [
        (31, 32, 24, "regression", False),
        (31, 33, 24, "binary", True),
        (33, 5, 7, "regression", True),
        (255, 3, 12, "poisson", False),
        (2, 1, 1, "binary", False),
    ],
)
def test_equals_booster(leaves: int, trees: int, columns: int, objective: str, zero: bool, device: str) -> None:
    booster = _booster(trees, columns, leaves=leaves, trees=trees, objective=objective, zero=zero)
    rows = _rows(np.random.default_rng(1), 100, columns)
    expected = torch.tensor(np.asarray(booster.predict(rows, num_threads=1)))
    model = DeviceForest.upload(_flat(booster), device=device)
    there = torch.tensor(rows, device=device)
    for layout in (there, there.T.contiguous().T):
        torch.testing.assert_close(forest(model, layout).cpu().double(), expected, rtol=1e-5, atol=1e-5)


def test_reference_equals_booster() -> None:
    booster = _booster(2, 9, leaves=63, trees=20, objective="binary", zero=True)
    rows = _rows(np.random.default_rng(3), 300, 9)
    found = reference.predict(_flat(booster), torch.tensor(rows))
    torch.testing.assert_close(found.double(), torch.tensor(np.asarray(booster.predict(rows))), rtol=1e-5, atol=1e-5)


def test_the_cpus_way_equals_booster() -> None:
    # 9,000 rows are three parts.
    for leaves in (31, 200):
        booster = _booster(4, 9, leaves=leaves, trees=12, zero=True)
        rows = _rows(np.random.default_rng(5), 9000, 9)
        found = intervals.predict(DeviceForest.upload(_flat(booster)), torch.tensor(rows))
        torch.testing.assert_close(
            found.double(), torch.tensor(np.asarray(booster.predict(rows))), rtol=1e-5, atol=1e-5
        )
    assert intervals.predict(DeviceForest.upload(_flat(booster)), torch.empty(0, 9)).shape == (0,)


def test_constant_trees(device: str) -> None:
    rows = np.zeros((50, 3), np.float32)
    booster = lgb.train({"verbosity": -1, "num_threads": 1}, lgb.Dataset(rows, np.full(50, 2.5)), 3)
    found = forest(DeviceForest.upload(_flat(booster), device=device), torch.tensor(rows, device=device))
    torch.testing.assert_close(found.cpu().double(), torch.tensor(np.asarray(booster.predict(rows))))


def test_a_row_depends_on_nothing_but_itself(device: str) -> None:
    model = DeviceForest.upload(_flat(_booster(4, 24, leaves=31, trees=32)), device=device)
    rows = torch.tensor(_rows(np.random.default_rng(5), 63, 24), device=device)
    together = forest(model, rows)
    assert torch.equal(together[40:41], forest(model, rows[40:41]))
    assert torch.equal(together.flip(0), forest(model, rows.flip(0)))


def test_another_forest_takes_the_place(device: str) -> None:
    old, new = (_flat(_booster(seed, 6, leaves=leaves, trees=4)) for seed, leaves in ((6, 31), (7, 15)))
    model = DeviceForest.upload(old, device=device)
    rows = torch.tensor(_rows(np.random.default_rng(8), 63, 6), device=device)
    held = [table.data_ptr() for table in model.tables()]
    other = DeviceForest.upload(new, device=device, least=model.plan)
    model.replace(other)
    assert [table.data_ptr() for table in model.tables()] == held
    assert torch.equal(forest(model, rows), forest(DeviceForest.upload(new, device=device), rows))
    with pytest.raises(ModelError, match="does not fit the graphs"):
        model.replace(DeviceForest.upload(_flat(_booster(9, 6, leaves=63, trees=9)), device=device, least=model.plan))


def test_what_does_not_fit_is_refused() -> None:
    flat = _flat(_booster(1, 4, leaves=300, trees=1))
    with pytest.raises(ModelError, match="300 leaves"):
        DeviceForest.upload(flat)
    model = DeviceForest.upload(_flat(_booster(1, 4, leaves=4, trees=1)))
    with pytest.raises(ValueError, match=r"rows must be \[m, 4\]"):
        forest(model, torch.zeros(3, 5))
