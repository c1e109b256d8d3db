"""The guard trusts a model that is better than the heuristic, drops one that is worse, and notices drift."""

from __future__ import annotations

from collections.abc import Iterator

import lightgbm as lgb
import numpy as np
import pytest

from hotset.predictor import recipe
from hotset.predictor.dataset import new_state, sequence_rows
from hotset.predictor.guard import Guard, GuardReport
from hotset.predictor.guard.drift import FeatureDrift, feature_shares
from hotset.predictor.guard.error import PendingPredictions
from hotset.predictor.guard.ghost import GhostPool
from hotset.predictor.model import ModelCard, ReuseModel
from hotset.predictor.replay import replay
from hotset.predictor.trace import SequenceTrace, Trace
from hotset.protos.features import FEATURES
from hotset.protos.trace import TraceMeta

BORDERS = np.linspace(0, 1, 11)[1:-1]


@pytest.fixture(scope="module")
def rows(sample: Trace) -> tuple[np.ndarray, np.ndarray]:
    parts = list(sequence_rows(sample.sequences[0], sample.meta, fraction=0.3, seed=0))
    target = np.concatenate([p.target for p in parts])
    censored = np.concatenate([p.censored for p in parts])
    return np.concatenate([p.features for p in parts]), recipe.targets(target, censored)


@pytest.fixture(scope="module")
def card(rows: tuple[np.ndarray, np.ndarray]) -> ModelCard:
    features, _ = rows
    quantiles = {
        f.name: tuple(np.nanquantile(features[:, i], BORDERS).tolist()) if not np.isnan(features[:, i]).all() else ()
        for i, f in enumerate(FEATURES)
    }
    return ModelCard(feature_quantiles=quantiles, feature_shares=feature_shares(features, quantiles))


def fit(features: np.ndarray, target: np.ndarray, card: ModelCard, error: float | None = None) -> ReuseModel:
    booster = lgb.train(recipe.lightgbm_params() | {"min_data_in_leaf": 50}, lgb.Dataset(features, target), 16)
    measured = float(((booster.predict(features) - target) ** 2).mean())
    return ReuseModel(card.model_copy(update={"error": error or measured}), booster.model_to_string())


@pytest.fixture(scope="module")
def model(rows: tuple[np.ndarray, np.ndarray], card: ModelCard) -> ReuseModel:
    return fit(*rows, card)


@pytest.fixture(scope="module")
def contrary(rows: tuple[np.ndarray, np.ndarray], card: ModelCard) -> ReuseModel:
    """A model that takes what is used soon for what is used late."""
    features, target = rows
    return fit(features, recipe.CAP - target, card)


def watch(guard: Guard, sequence: SequenceTrace, meta: TraceMeta) -> Iterator[GuardReport]:
    state = new_state(sequence, meta)
    for t in range(len(sequence.steps)):
        state.observe(int(sequence.lengths[t]), sequence.pages[t], sequence.scores[t], sequence.selected[t])
        guard.observe(sequence.sequence, state, sequence.pages[t], sequence.selected[t])
        yield guard.report


def make_guard(model: ReuseModel, sample: Trace, window: int = 39) -> Guard:
    meta = sample.meta
    return Guard(model, lanes=meta.layers * meta.kv_heads, slots_per_lane=2 * meta.selected, window=window)


def test_a_good_model_stays(model: ReuseModel, sample: Trace) -> None:
    guard = make_guard(model, sample)
    reports = list(watch(guard, sample.sequences[0], sample.meta))
    assert all(report.learned_ok for report in reports)
    assert guard.learned_ok
    assert 0 < guard.report.learned_misses <= guard.report.heuristic_misses * 1.02


def test_a_contrary_model_loses_its_turn(contrary: ReuseModel, sample: Trace) -> None:
    guard = make_guard(contrary, sample)
    reports = list(watch(guard, sample.sequences[0], sample.meta))
    assert reports[0].learned_ok
    assert not guard.learned_ok
    assert guard.report.learned_misses > guard.report.heuristic_misses * 1.02


def test_ghost_pools_miss_what_replay_misses(model: ReuseModel, sample: Trace) -> None:
    """With all lanes sampled and one window over the whole sequence, the ghosts are a replay of lane pools."""
    sequence, meta = sample.sequences[0], sample.meta
    lanes = meta.layers * meta.kv_heads
    state, pool, misses = new_state(sequence, meta), GhostPool(lanes, 2 * meta.selected, 1), 0
    for t in range(len(sequence.steps)):
        pages, selected = sequence.pages[t], sequence.selected[t]
        state.observe(int(sequence.lengths[t]), pages, sequence.scores[t], selected)
        pool.reserve(state.memory.pages)
        rows, victims = pool.victims(pages, selected)
        values = model.predict(state.rows(rows, victims))
        missed = pool.serve(pages, selected, rows, victims, values)
        misses += missed if t else 0
    one = Trace(meta, [sequence])
    assert misses == replay([one], "learned", ratio=2.0, model=model).demand_misses


def test_drift_is_small_at_home_and_large_abroad(model: ReuseModel, rows: tuple[np.ndarray, np.ndarray]) -> None:
    features, _ = rows
    drift = FeatureDrift(model.card)
    assert drift.indices() == {}
    drift.add(features)
    assert max(drift.indices().values()) < 0.1
    drift.reset()
    shifted = features.copy()
    age = [f.name for f in FEATURES].index("age")
    shifted[:, age] += 20.0
    drift.add(shifted)
    indices = drift.indices()
    assert indices["age"] > 0.25
    assert max(value for name, value in indices.items() if name != "age") < 0.1


def test_values_gone_missing_are_drift(model: ReuseModel, rows: tuple[np.ndarray, np.ndarray]) -> None:
    features = rows[0].copy()
    features[:, [f.name for f in FEATURES].index("count_8")] = np.nan
    drift = FeatureDrift(model.card)
    drift.add(features)
    assert drift.indices()["count_8"] > 0.25


def test_predictions_settle_when_used_or_too_late() -> None:
    pending = PendingPredictions()
    last_used = np.full((2, 3), -1, np.int32)
    lanes, pages = np.array([0, 1], np.int32), np.array([2, 1], np.int32)
    pending.add(10, lanes, pages, np.array([1.0, 3.0], np.float32))
    last_used[0, 2] = 10
    assert pending.settle(11, last_used) == (0.0, 0)
    last_used[0, 2] = 14
    assert pending.settle(14, last_used) == (1.0, 1)
    late = int(10 + 2**recipe.CAP)
    error, count = pending.settle(late, last_used)
    assert count == 1
    assert error == pytest.approx((3.0 - recipe.CAP) ** 2)
    assert pending.settle(late + 1, last_used) == (0.0, 0)


def test_growing_error_wants_retraining(
    rows: tuple[np.ndarray, np.ndarray], card: ModelCard, sample: Trace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hotset.predictor.guard.guard.LEAST_ROWS", 200)
    monkeypatch.setattr("hotset.predictor.guard.guard.DRIFT_LIMIT", np.inf)
    honest, vain = fit(*rows, card), fit(*rows, card, error=1e-3)
    for candidate, wanted in ((honest, False), (vain, True)):
        guard = make_guard(candidate, sample)
        list(watch(guard, sample.sequences[0], sample.meta))
        assert guard.report.error is not None
        assert guard.retrain_wanted is wanted
        assert ("prediction error" in guard.report.reason) is wanted


def test_sequences_come_and_go(model: ReuseModel, sample: Trace) -> None:
    guard = make_guard(model, sample)
    for _ in range(2):
        list(watch(guard, sample.sequences[0].head(5), sample.meta))
        guard.forget(sample.sequences[0].sequence)
    guard.forget(12345)
    assert guard.report == GuardReport()
