"""The learned policies in replay: better than heuristics on the recorded sample, and within their budgets."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from hotset.predictor.experiments.fit import device_rows, fit, lookahead_rows, reuse_rows
from hotset.predictor.lookahead import nearest
from hotset.predictor.model import ModelCard, ReuseModel
from hotset.predictor.policies import POLICIES, PolicyError, get_policy
from hotset.predictor.replay import ReplayResult, replay
from hotset.predictor.trace import Trace
from hotset.protos.errors import ConfigError


@pytest.fixture(scope="module")
def split(sample: Trace) -> tuple[Trace, Trace]:
    """One sequence to learn from (code), one to be judged on (docs)."""
    code, docs = sample.sequences
    return Trace(sample.meta, [code]), Trace(sample.meta, [docs])


@pytest.fixture(scope="module")
def model(split: tuple[Trace, Trace]) -> ReuseModel:
    train, _ = split
    ranked = lookahead_rows(train, fraction=1.0, seed=0)
    values, uses = device_rows(train, fraction=0.5, seed=0)
    assert ranked is not None
    assert uses is not None
    return fit([reuse_rows(train, fraction=0.4, seed=0)], [ranked], device=[(values, uses)])


@pytest.fixture(scope="module")
def judged(split: tuple[Trace, Trace], model: ReuseModel) -> Callable[..., ReplayResult]:
    found: dict[tuple[str, str, float], ReplayResult] = {}

    def judge(policy: str, pool: str = "lane", ratio: float = 2.0) -> ReplayResult:
        key = (policy, pool, ratio)
        if key not in found:
            found[key] = replay(
                [split[1]], policy, ratio=ratio, pool="shared" if pool == "shared" else "lane", model=model
            )
        return found[key]

    return judge


@pytest.mark.parametrize("pool", ["lane", "shared"])
def test_learned_eviction_lies_between_the_heuristics_and_belady(
    judged: Callable[..., ReplayResult], pool: str
) -> None:
    learned = judged("learned", pool).demand_misses
    assert learned < judged("lru", pool).demand_misses
    assert learned < judged("score-ema", pool).demand_misses
    assert learned > judged("belady", pool).demand_misses


def test_learned_eviction_prefetches_nothing(judged: Callable[..., ReplayResult]) -> None:
    assert judged("learned").prefetched_pages == 0
    assert judged("learned").moved_pages == judged("learned").demand_misses


@pytest.mark.parametrize(
    ("policy", "budget"),
    [
        ("learned-lookahead", 1.2),
        ("learned-lookahead-wide", 1.6),
        ("learned-device", 1.2),
        ("learned-device-wide", 1.6),
    ],
)
def test_lookahead_cuts_misses_within_its_budget(
    judged: Callable[..., ReplayResult], policy: str, budget: float
) -> None:
    lru, found = judged("lru"), judged(policy)
    assert found.demand_misses < 0.65 * lru.demand_misses
    assert found.moved_pages <= 1.03 * budget * lru.moved_pages
    assert found.prefetched_hits > 0.4 * found.prefetched_pages


def test_a_larger_budget_leaves_fewer_misses(judged: Callable[..., ReplayResult]) -> None:
    assert judged("learned-lookahead-wide").demand_misses < judged("learned-lookahead").demand_misses
    assert judged("learned-device-wide").demand_misses < judged("learned-device").demand_misses


def test_a_budget_in_the_name_is_kept_even_below_lrus_bytes(judged: Callable[..., ReplayResult]) -> None:
    lru, found = judged("lru"), judged("learned-device@0.9")
    assert found.policy == "learned-device@0.9"
    assert 0 < found.prefetched_pages < judged("learned-device").prefetched_pages
    assert found.moved_pages <= 0.93 * lru.moved_pages
    assert found.demand_misses < lru.demand_misses


def test_the_top_of_a_lookahead_buys_misses_with_bytes(judged: Callable[..., ReplayResult]) -> None:
    lru, half, top = judged("lru"), judged("lookahead-top@0.5"), judged("lookahead-top")
    assert lru.demand_misses > half.demand_misses > top.demand_misses
    assert lru.moved_pages < half.moved_pages < top.moved_pages


@pytest.mark.parametrize("name", ["lru@1.2", "learned-device@much", "learned-device@-1", "learned-device@", "lookup@1"])
def test_a_budget_where_none_is_taken_or_none_that_is_one(name: str) -> None:
    with pytest.raises(PolicyError, match=r"budget|no policy"):
        get_policy(name)


def test_a_lane_without_one_distance_uses_the_other(split: tuple[Trace, Trace]) -> None:
    ranks = split[1].sequences[0].lookahead[1][5]
    near, far = ranks.copy(), np.where(ranks >= 0, ranks + 1, -1)[:, :7]
    near[1::2] = -1
    merged, early = nearest({1: near, 2: far})
    assert early == 1
    np.testing.assert_array_equal(merged[::2], ranks[::2])
    np.testing.assert_array_equal(merged[1::2, :7], far[1::2])
    assert (merged[1::2, 7:] == -1).all()
    assert nearest({2: far})[1] == 2
    with pytest.raises(ConfigError, match="looks ahead"):
        nearest({})


def test_the_device_pays_little_for_knowing_less(judged: Callable[..., ReplayResult]) -> None:
    assert judged("learned-device").demand_misses < 1.15 * judged("learned-lookahead").demand_misses


def test_prefetch_without_lookahead_trades_bytes_for_misses(
    split: tuple[Trace, Trace], model: ReuseModel, judged: Callable[..., ReplayResult]
) -> None:
    eager = ReuseModel(model.card.model_copy(update={"prefetch_threshold": 1.5, "version": ""}), model.text)
    found = replay([split[1]], "learned-prefetch", ratio=2.0, model=eager)
    learned = judged("learned")
    assert found.prefetched_pages > 0
    assert found.demand_misses < learned.demand_misses
    assert found.moved_pages >= learned.moved_pages


def test_nothing_is_prefetched_below_an_impossible_threshold(split: tuple[Trace, Trace], model: ReuseModel) -> None:
    shy = ReuseModel(model.card.model_copy(update={"prefetch_threshold": -100.0, "version": ""}), model.text)
    found = replay([Trace(split[1].meta, [split[1].sequences[0].head(10)])], "learned-prefetch", ratio=2.0, model=shy)
    assert found.prefetched_pages == 0


@pytest.mark.parametrize("policy", [name for name in POLICIES if name.startswith("learned")])
def test_no_model_is_a_clear_error(split: tuple[Trace, Trace], policy: str) -> None:
    with pytest.raises(PolicyError, match="model"):
        replay([split[1]], policy, ratio=2.0)


def test_lookahead_needs_a_recorded_one_and_a_second_head(
    split: tuple[Trace, Trace], model: ReuseModel, make_trace: Callable[..., Trace]
) -> None:
    with pytest.raises(PolicyError, match="recorded a lookahead"):
        replay(
            [split[1]],
            "learned-lookahead",
            ratio=2.0,
            model=ReuseModel(model.card.model_copy(update={"version": ""}), model.text),
        )
    with pytest.raises(PolicyError, match="heads for the device"):
        replay([split[1]], "learned-device", ratio=2.0, model=ReuseModel(ModelCard(), model.text))
    with pytest.raises(PolicyError, match="recorded lookahead"):
        replay([make_trace(1)], "learned-lookahead", ratio=2.0, model=model)
