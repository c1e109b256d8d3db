"""What memory is worth, on curves whose best answer is known."""

from __future__ import annotations

import numpy as np
import pytest

from hotset.daemon.advice.curve import BINS, EDGES, MissCurve
from hotset.daemon.advice.meter import Load
from hotset.daemon.advice.node import Node
from hotset.daemon.advice.pacing import MOST_EVERY, Pacer
from hotset.daemon.advice.shares import ComputeModel, Expectation, Outlook, Pool, StallModel
from hotset.protos.messages import Geometry

MISS_US = 10.0
SHAPE = Geometry(layers=4, kv_heads=2, page_size=4, selected=3, candidates=6, page_bytes=64, slots=4000, groups=64)


def cliff(at: float, misses: float) -> MissCurve:
    """All of a sequence's misses below a share of `at` slots, none above."""
    histogram = np.zeros(BINS)
    histogram[np.searchsorted(EDGES, at, side="right") - 2] = misses
    return MissCurve(histogram, 0.0)


def compute(*batches: int) -> ComputeModel:
    model = ComputeModel(0.99)
    for running in batches * 50:
        model.observe(running, 10_000 + 100 * running)
    return model


def stall(*misses: int, batch_us: float = 0.0, page_us: float = 0.0, layers: int = 4) -> StallModel:
    """Of a link on which a page takes MISS_US, and the batch of a layer that misses `batch_us` besides."""
    model = StallModel(0.99, layers, page_us)
    for count in misses * 50:
        model.observe(count, MISS_US * count + batch_us * layers)
    return model


def outlook(at: float, misses: float = 10_000.0) -> Outlook:
    return Outlook(cliff(at, misses), 1.0, 0.0, stall(100), compute(2, 6))


def pool(slots: int = 1000, sequence_bytes: int = 0, budget: int = 0) -> Pool:
    return Pool(slots, least=16, budget=budget, page_bytes=100, sequence_bytes=sequence_bytes, selected=40)


@pytest.mark.parametrize(
    ("slots", "sequence_bytes", "budget", "fits"),
    [(1000, 0, 0, 20), (999, 0, 0, 19), (10, 0, 0, 1), (1000, 5000, 50_000, 5), (1000, 5000, 10**9, 20)],
)
def test_so_many_fit_as_their_selections_and_a_quarter_more_have_room(
    slots: int, sequence_bytes: int, budget: int, fits: int
) -> None:
    assert pool(slots, sequence_bytes, budget).fits() == fits
    assert pool(5000, sequence_bytes, budget).fits(slots) == fits


def test_compute_is_fitted_once_batches_differ() -> None:
    assert float(ComputeModel(0.99).at(np.array(4.0))) == 0.0
    assert float(compute(2, 8, 4).at(np.array(16.0))) == pytest.approx(11_600, rel=0.01)


def test_compute_of_one_batch_size_is_half_fixed() -> None:
    assert float(compute(4).at(np.array(8.0))) == pytest.approx(1.5 * 10_400)


def test_stall_of_pages_and_of_waits_are_told_apart_once_misses_differ() -> None:
    known = stall(40, 80, batch_us=100.0)
    assert known.miss_us == pytest.approx(MISS_US)
    assert float(known.at(np.array(1000.0))) == pytest.approx(10_400, rel=0.01)
    assert float(known.at(np.array(0.0))) == 0.0
    # One miss waits in one layer only.
    assert float(known.at(np.array(1.0))) == pytest.approx(100, rel=0.2)


def test_stall_is_all_of_the_pages_until_misses_differ_or_the_link_is_known() -> None:
    assert stall(100, batch_us=100.0).miss_us == pytest.approx(MISS_US + 4)
    assert stall(100, batch_us=100.0, page_us=MISS_US).miss_us == pytest.approx(MISS_US)
    assert StallModel(0.99, 4, MISS_US).miss_us == MISS_US
    assert float(StallModel(0.99, 4, 0.0).at(np.array(9.0))) == 0.0


class Seen:
    """A ghost that has seen one curve, and a policy that misses `missed` pages a step."""

    def __init__(self, curve: MissCurve, missed: float) -> None:
        self.missed, self.warmed, self._curve = missed, 0.0, curve

    def curve(self) -> MissCurve:
        return self._curve


def test_the_policy_is_compared_with_the_curve_at_the_shares_that_were_in_force() -> None:
    # Half of the steps had too small a share for the working set, the others a large one: their mean says nothing.
    expectation = Expectation(SHAPE, None, 1e9)
    for share in (50.0, 1000.0) * 100:
        expectation.observe(Load(4, 0, 1000, 0), 4 * share, 0, 4)
    found = expectation.outlook(Seen(cliff(200, 100.0), 45.0))  # type: ignore[arg-type]
    assert found.factor == pytest.approx(0.9, rel=0.01)


def test_twice_the_sequences_in_twice_the_slots_miss_twice_as_much() -> None:
    curve = MissCurve(np.ones(BINS), 3.0)
    once, twice = (float(curve.of_pool(np.array(500.0 * n), np.array(2.0 * n))) for n in (1, 2))
    assert twice == pytest.approx(2 * once)
    assert bool((np.diff(curve.misses(np.arange(1.0, 5000.0))) <= 0).all())


def test_as_many_sequences_as_the_working_sets_leave_room_for() -> None:
    promise = outlook(200).promise(pool(), 1, 20)
    best, goodput = promise.best, promise.rates.max()
    assert best == 5
    assert goodput == pytest.approx(5e6 / 10_500, rel=0.02)
    assert outlook(200).promise(pool(), 1, 3).best == 3


def test_sequences_pay_for_their_room() -> None:
    # Each needs 200 slots and takes as much beside them, so half as many fit as without.
    priced = pool(slots=2000, sequence_bytes=200 * 100, budget=2000 * 100)
    assert outlook(200).promise(pool(slots=2000), 1, 40).best == 10
    assert outlook(200).promise(priced, 1, 40).best == 5
    assert float(priced.hot(np.array(5.0))) == 1000


def test_the_knee_is_where_the_curve_falls() -> None:
    assert outlook(200).knee(pool(), 2, 0.01) == pytest.approx(400, rel=0.15)
    assert outlook(200, misses=0.0).knee(pool(), 2, 0.01) == 16


def test_two_sessions_split_a_device_by_what_they_gain() -> None:
    node = Node(device_bytes=150_000)
    large, small = pool(budget=100_000), pool(budget=100_000)
    node.offer("small", "gpu", outlook(20).offer(small, 4))
    share = node.offer("large", "gpu", outlook(200).offer(large, 4))
    rest = node.offer("small", "gpu", outlook(20).offer(small, 4))
    assert share is not None
    assert rest is not None
    # Four times 200 slots of 100 bytes, and four times 20.
    assert share >= 80_000
    assert rest >= 8_000
    assert share + rest <= 150_001


def test_pacing_keeps_warm_ups_to_their_share() -> None:
    pacer = Pacer(0.2, 256)
    for _ in range(50):
        pacer.observe(10_000, 20_000)
    assert pacer.every == 10
    pacer.observe(10_000, 22_000)
    assert pacer.every == 10
    pacer.observe(10_000, 10**9)
    assert pacer.every == MOST_EVERY
    pacer.observe(10_000, 10)
    assert pacer.every is None


def test_pacing_fills_places_faster_than_they_empty() -> None:
    pacer = Pacer(0.2, 256)
    for step in range(512):
        if step % 16 == 0:
            pacer.ended()
        pacer.observe(10_000, 10**6)
    assert pacer.every is not None
    assert pacer.every <= 4
    for _ in range(512):
        pacer.ended()
        pacer.observe(10_000, 10**6)
    # None is held back where each step ends one.
    assert pacer.every is None
