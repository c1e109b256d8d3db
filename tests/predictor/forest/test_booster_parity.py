"""The compiled forest predicts what LightGBM's own Booster predicts, whatever the trees look like."""

from __future__ import annotations

import lightgbm as lgb
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hotset.predictor.forest import Forest
from hotset.predictor.forest.parse import floor32
from hotset.protos.errors import ModelError
from hotset.protos.forest import FlatForest

OBJECTIVES = ("regression", "regression_l1", "quantile", "binary", "cross_entropy", "poisson")


def _rows(random: np.random.Generator, count: int, columns: int) -> npt.NDArray[np.float32]:
    """Coarse values, so that many equal a threshold; NaN, zeros, infinities and denormals among them."""
    rows = random.normal(size=(count, columns)).round(2).astype(np.float32)
    odd = np.array([np.nan, 0.0, -0.0, np.inf, -np.inf, 1e-40, -1e-35, 2e-35], np.float32)
    strange = random.random(rows.shape) < 0.2
    rows[strange] = random.choice(odd, int(strange.sum()))
    return rows


def _booster(
    seed: int, *, objective: str, leaves: int, trees: int, zero_as_missing: bool, use_missing: bool
) -> tuple[lgb.Booster, npt.NDArray[np.float32]]:
    random = np.random.default_rng(seed)
    rows = _rows(random, 2000, int(random.integers(1, 30)))
    label = np.nan_to_num(np.clip(rows, -9, 9)).sum(axis=1) + random.normal(size=len(rows))
    if objective in ("binary", "cross_entropy"):
        label = (label > 0).astype(np.float64)
    if objective == "poisson":
        label = np.abs(label)
    params = {
        "objective": objective,
        "num_leaves": leaves,
        "min_data_in_leaf": int(random.integers(1, 40)),
        "zero_as_missing": zero_as_missing,
        "use_missing": use_missing,
        "verbosity": -1,
        "num_threads": 1,
    }
    return lgb.train(params, lgb.Dataset(rows, label), trees), _rows(random, 300, rows.shape[1])


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    objective=st.sampled_from(OBJECTIVES),
    leaves=st.sampled_from([2, 3, 31, 63, 64, 65, 129, 255]),
    trees=st.sampled_from([1, 15, 16, 17, 40]),
    zero_as_missing=st.booleans(),
    use_missing=st.booleans(),
)
def test_equals_booster(
    seed: int, objective: str, leaves: int, trees: int, zero_as_missing: bool, use_missing: bool
) -> None:
    booster, rows = _booster(
        seed,
        objective=objective,
        leaves=leaves,
        trees=trees,
        zero_as_missing=zero_as_missing,
        use_missing=use_missing,
    )
    forest = Forest.from_booster(booster)
    expected = np.asarray(booster.predict(rows, num_threads=1))
    np.testing.assert_allclose(forest.predict(rows), expected, rtol=1e-6, atol=1e-6)
    copy = Forest(FlatForest.from_bytes(forest.to_arrays().to_bytes()))
    np.testing.assert_array_equal(copy.predict(rows), forest.predict(rows))


def test_random_forest_averages() -> None:
    random = np.random.default_rng(0)
    rows = _rows(random, 2000, 4)
    params = {"boosting": "rf", "bagging_freq": 1, "bagging_fraction": 0.5, "verbosity": -1, "num_threads": 1}
    booster = lgb.train(params, lgb.Dataset(rows, random.normal(size=2000)), 9)
    np.testing.assert_allclose(Forest.from_booster(booster).predict(rows), booster.predict(rows), atol=1e-6)


def test_constant_trees() -> None:
    rows = np.zeros((50, 3), np.float32)
    booster = lgb.train({"verbosity": -1, "num_threads": 1}, lgb.Dataset(rows, np.full(50, 2.5)), 3)
    np.testing.assert_allclose(Forest.from_booster(booster).predict(rows), booster.predict(rows), atol=1e-6)


@given(st.floats(allow_nan=False, allow_infinity=False), st.floats(width=32, allow_nan=False))
def test_floored_threshold_decides_alike(threshold: float, value: float) -> None:
    floored = float(floor32(np.array([threshold]))[0])
    assert (value <= floored) == (value <= threshold)


@pytest.mark.parametrize("cut", [0, 10, 200, 1200])
def test_truncated_text_is_refused(cut: int) -> None:
    booster, _ = _booster(1, objective="regression", leaves=31, trees=2, zero_as_missing=False, use_missing=True)
    with pytest.raises(ModelError):
        Forest.from_text(booster.model_to_string()[:cut])


def test_foreign_models_are_refused() -> None:
    random = np.random.default_rng(0)
    rows, label = random.normal(size=(500, 3)), random.integers(0, 3, 500)
    many = lgb.train({"objective": "multiclass", "num_class": 3, "verbosity": -1}, lgb.Dataset(rows, label), 2)
    with pytest.raises(ModelError, match="several classes"):
        Forest.from_booster(many)
    rows[:, 0] = label
    data = lgb.Dataset(rows, label, categorical_feature=[0])
    categories = lgb.train({"verbosity": -1, "min_data_per_group": 1, "cat_smooth": 0.0}, data, 2)
    with pytest.raises(ModelError, match="categorical"):
        Forest.from_booster(categories)


def test_wrong_width_is_refused() -> None:
    booster, rows = _booster(3, objective="regression", leaves=5, trees=1, zero_as_missing=False, use_missing=True)
    with pytest.raises(ModelError, match="rows"):
        Forest.from_booster(booster).predict(rows[:, :0])
