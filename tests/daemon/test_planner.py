"""Planning as pure functions: who is scored, which prefetches pay, what a plan says."""

from __future__ import annotations

import itertools
from typing import Literal

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from hotset.daemon.config import PlanRules
from hotset.daemon.heat import BINS, cutoff, heat_values, nominate
from hotset.daemon.planner import Planner, choose_prefetch
from hotset.daemon.state import SequenceState, SessionState
from hotset.predictor.features import FeatureState
from hotset.protos.heat import CEILING, DECAY, EPSILON, FLOOR
from hotset.protos.messages import Geometry, SequenceOpen, Step

Int32 = npt.NDArray[np.int32]
Float32 = npt.NDArray[np.float32]


class PageNumber:
    """Values a page by its logical number and lane, which makes expectations easy to state."""

    source: Literal["heuristic"] = "heuristic"
    version = ""
    prefetch_below = float("inf")

    def values(self, sequence: SequenceState, lanes: Int32, pages: Int32) -> Float32:
        return (pages + lanes / 10 + sequence.id / 100).astype(np.float32)


def make_state(lanes: int = 2, pages: int = 6, sequences: int = 1, shared: bool = False) -> SessionState:
    geometry = Geometry(
        layers=lanes, kv_heads=1, page_size=4, selected=2, candidates=4, page_bytes=64, slots=40,
        groups=pages * sequences,
    )  # fmt: skip
    state = SessionState(geometry)
    for number in range(sequences):
        first = 0 if shared else number * pages
        groups = np.arange(first, first + pages, dtype="<i4")
        state.open(
            SequenceOpen(
                sequence=number, prompt_tokens=4 * pages, groups=groups, generations=np.arange(pages).astype("<u4")
            )
        )
    state.synced = True
    return state


def observe(state: SessionState, epoch: int, pages: list[list[int]], length: int) -> None:
    rows = np.array(pages, "<i4")
    state.step(
        Step(
            epoch=epoch, sequences=[0], lengths=np.array([length], "<i4"), sequence_steps=np.array([epoch], "<i4"),
            candidates=rows, scores=np.full(rows.shape, 200, "|u1"), flags=np.zeros(rows.shape, "|u1"),
            new_sequence=np.zeros(0, "<i8"), new_group=np.zeros(0, "<i4"), new_generation=np.zeros(0, "<u4"),
            loaded=np.zeros(0, "<i4"), evicted=np.zeros(0, "<i4"),
        )
    )  # fmt: skip


def heat_state(lanes: int, pages: int, *, compact: bool) -> FeatureState:
    return FeatureState(layers=lanes, kv_heads=1, page_size=4, selected=2, pages=pages, compact=compact)


@pytest.mark.parametrize("compact", [False, True])
def test_lazy_averages_equal_the_ones_updated_at_every_step(compact: bool) -> None:
    rng = np.random.default_rng(0)
    features, expected = heat_state(3, 10, compact=compact), np.zeros((3, 10))
    for _ in range(60):
        pages = np.stack([rng.permutation(10)[:4] for _ in range(3)]).astype(np.int32)
        pages[rng.random(pages.shape) < 0.2] = -1
        scores = rng.integers(0, 256, pages.shape, dtype=np.uint8)
        selected = (pages >= 0) & (rng.random(pages.shape) < 0.5)
        features.observe(40, pages, scores, selected)
        expected *= DECAY
        threshold = np.where((pages >= 0) & ~selected, scores, 0).max(1)
        for lane, i in zip(*np.nonzero(pages >= 0), strict=True):
            least = FLOOR if selected[lane, i] else 0.0
            margin = max(least, FLOOR + float(scores[lane, i]) - float(threshold[lane]))
            expected[lane, pages[lane, i]] += (1 - DECAY) * margin
    lanes, page = (part.astype(np.int32) for part in np.divmod(np.arange(30), 10))
    np.testing.assert_allclose(
        heat_values(features, lanes, page), CEILING - np.log2(expected.ravel() + EPSILON), rtol=1e-4, atol=1e-4
    )


def test_averages_survive_growth() -> None:
    features = heat_state(1, 2, compact=True)
    features.observe(8, np.array([[1]], np.int32), np.array([[100]], np.uint8), np.array([[True]]))
    features.observe(20004, np.array([[5000]], np.int32), np.array([[100]], np.uint8), np.array([[True]]))
    values = heat_values(features, np.zeros(2, np.int32), np.array([1, 99999], np.int32))
    used = CEILING - np.log2(DECAY * (1 - DECAY) * (FLOOR + 100) + EPSILON)
    np.testing.assert_allclose(values, [used, CEILING - np.log2(EPSILON)], rtol=1e-5)


@given(st.integers(1, 5), st.integers(0, 6), st.integers(0, 4), st.integers(1, 5), st.booleans(), st.data())
def test_nominees_are_the_resident_and_the_recent(
    lanes: int, pages: int, first: int, count: int, near: bool, data: st.DataObject
) -> None:
    first = first % lanes
    count = min(count, lanes - first)
    groups = np.array(data.draw(st.permutations(range(9))), np.int32)[:pages]
    resident = data.draw(hnp.arrays(np.bool_, 9 * lanes))
    features = heat_state(lanes, 8, compact=True)
    features.hot["last_seen"] = data.draw(hnp.arrays(np.int32, (lanes, 8), elements=st.integers(-1, 9)))
    features.hot["last_used"] = np.minimum(features.hot["last_seen"], 7)
    features.hot["margin"] = data.draw(hnp.arrays(np.float32, (lanes, 8), elements=st.floats(0, 100, width=32)))
    blind = data.draw(hnp.arrays(np.int32, lanes, elements=st.sampled_from([0, 10, 11])))
    coldest, nearest = (4.0, 3.0) if near else (-np.inf, np.inf)
    histogram = np.zeros(BINS, np.int64)
    found = nominate(groups, resident, features.hot, 9, blind, 4, first, count, coldest, nearest, histogram)
    expected, held = set(), 0
    for lane, page in itertools.product(range(first, first + count), range(pages)):
        place, record = int(groups[page]) * lanes + lane, features.hot[lane, page]
        idle = 9 - int(record["last_seen"])
        average = float(record["margin"]) * DECAY**idle if idle < 10 else 0.0
        value = CEILING - np.log2(average + EPSILON)
        assert abs(value - coldest) > 1e-6
        if blind[lane] <= 10:
            held += bool(resident[place])
            if resident[place] and value >= coldest and not (near and record["last_used"] == 9):
                expected.add((lane, page, place, True))
            if not resident[place] and idle < 4 and value <= nearest:
                expected.add((lane, page, place, False))
    assert set(zip(*(column.tolist() for column in found), strict=True)) == expected
    assert len(found[0]) == len(expected)
    assert histogram.sum() == held


@given(hnp.arrays(np.int64, BINS, elements=st.integers(0, 50)), st.floats(0.01, 1.0))
def test_the_boundary_has_the_asked_share_beyond_it(histogram: npt.NDArray[np.int64], share: float) -> None:
    bounds = [cutoff(np.eye(BINS, dtype=np.int64)[i], 1.0) for i in range(BINS)]
    assert bounds == sorted(bounds)
    beyond = sum(int(n) for n, bound in zip(histogram, bounds, strict=True) if bound >= cutoff(histogram, share))
    assert beyond >= share * histogram.sum()


def test_a_plan_values_every_resident_full_page_and_no_tail() -> None:
    state = make_state(lanes=2, pages=6)
    state.sequences[0].length = 22  # page 5 holds tokens 20 and 21 of four: the tail
    state.resident[[0, 1, 5, 10, 11]] = True
    plan = Planner(PlanRules()).plan(state, PageNumber(), prefetch_pages=0)
    assert dict(zip(plan.pages.tolist(), plan.values.tolist(), strict=True)) == pytest.approx(
        {0: 0.0, 1: 0.1, 5: 2.1}, abs=1e-6
    )
    np.testing.assert_array_equal(plan.generations, plan.pages // 2)
    assert len(plan.prefetch) == 0


def test_a_plan_names_its_step_and_deadline_and_counts_up() -> None:
    state, planner = make_state(), Planner(PlanRules(horizon=4))
    observe(state, 7, [[0, 1], [2, 3]], length=24)
    plans = [planner.plan(state, PageNumber(), 0) for _ in range(2)]
    assert [(p.number, p.epoch, p.deadline) for p in plans] == [(1, 7, 11), (2, 7, 11)]


def test_recent_candidates_are_fetched_best_first_with_their_generation() -> None:
    state = make_state(lanes=1, pages=6)
    state.resident[[4, 5]] = True
    observe(state, 1, [[0, 1, 2, -1]], length=24)
    plan = Planner(PlanRules(margin=1.0)).plan(state, PageNumber(), prefetch_pages=9)
    # Pages 0 and 1 push out 5 and 4; page 2 has nobody left to push out.
    assert plan.prefetch.tolist() == [0, 1]
    assert plan.prefetch_generations.tolist() == [0, 1]


def test_so_few_that_they_come_as_fast_when_they_are_missed_are_not_fetched() -> None:
    state = make_state(lanes=1, pages=6)
    state.resident[[4, 5]] = True
    observe(state, 1, [[0, 1, 2, -1]], length=24)
    planner = Planner(PlanRules(margin=1.0))
    assert planner.plan(state, PageNumber(), 9, least=2).prefetch.tolist() == [0, 1]
    few = planner.plan(state, PageNumber(), 9, least=3)
    assert len(few.prefetch) == len(few.prefetch_generations) == 0
    assert few.pages.tolist() == [4, 5]  # their values count all the same


def test_pages_seen_long_ago_are_not_fetched() -> None:
    state = make_state(lanes=1, pages=6)
    state.resident[[4, 5]] = True
    observe(state, 1, [[0, -1, -1, -1]], length=24)
    planner = Planner(PlanRules(recent=2))
    assert planner.plan(state, PageNumber(), 9).prefetch.tolist() == [0]
    for epoch in (2, 3):
        observe(state, epoch, [[5, -1, -1, -1]], length=24)
    assert planner.plan(state, PageNumber(), 9).prefetch.tolist() == []


def test_lanes_take_turns_when_there_are_too_many_rows() -> None:
    state = make_state(lanes=10, pages=6)
    state.resident[:] = True
    planner, seen, lengths = Planner(PlanRules(rows=20, horizon=3)), set(), []
    for _ in range(5):
        plan = planner.plan(state, PageNumber(), 0)
        seen.update(plan.pages.tolist())
        lengths.append(len(plan.pages))
        # A value must last until the lane's next turn.
        assert plan.deadline - plan.epoch == 3 - (-10 // (len(plan.pages) // 6)) - 1
    assert max(lengths) < 60
    assert seen == set(range(60))


def test_a_shared_page_is_worth_what_its_hottest_owner_says() -> None:
    state = make_state(lanes=1, pages=3, sequences=3, shared=True)
    state.resident[:3] = True
    plan = Planner(PlanRules()).plan(state, PageNumber(), 0)
    assert plan.pages.tolist() == [0, 1, 2]
    np.testing.assert_allclose(plan.values, [0.0, 1.0, 2.0])


def test_a_session_without_sequences_plans_nothing() -> None:
    state = make_state(sequences=1)
    state.sequences.clear()
    plan = Planner(PlanRules()).plan(state, PageNumber(), 9)
    assert len(plan.pages) == len(plan.prefetch) == 0


VALUES = hnp.arrays(np.float32, st.integers(0, 30), elements=st.floats(0, 32, width=32))


@given(VALUES, st.integers(0, 40), st.floats(0, 4), st.floats(0, 32), st.integers(0, 99))
def test_every_prefetch_pays_for_what_it_pushes_out(
    values: Float32, limit: int, margin: float, below: float, seed: int
) -> None:
    resident = np.random.default_rng(seed).random(len(values)) < 0.5
    chosen = choose_prefetch(values, resident, limit, margin, below)
    assert len(chosen) == len(set(chosen.tolist())) <= limit
    assert not resident[chosen].any()
    assert (values[chosen] < below).all()
    assert (np.diff(values[chosen]) >= 0).all()
    worst = np.sort(values[resident])[::-1]
    assert (values[chosen] + np.float32(margin) < worst[: len(chosen)]).all()
    # One more would not pay, or is not allowed.
    outside = np.sort(values[~resident & (values < below)])
    n = len(chosen)
    if n < min(limit, len(outside), len(worst)):
        assert outside[n] + np.float32(margin) >= worst[n]
