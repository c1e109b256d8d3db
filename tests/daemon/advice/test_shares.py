"""What memory is worth, on curves whose best answer is known."""

from __future__ import annotations

import numpy as np
import pytest

from hotset.daemon.advice.curve import BINS, EDGES, MissCurve
from hotset.daemon.advice.node import Node
from hotset.daemon.advice.pacing import MOST_EVERY, Pacer
from hotset.daemon.advice.shares import ComputeModel, Outlook, Pool

MISS_US = 10.0


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


def outlook(at: float, misses: float = 10_000.0) -> Outlook:
    return Outlook(cliff(at, misses), 1.0, 0.0, MISS_US, compute(2, 6))


def pool(slots: int = 1000, sequence_bytes: int = 0, budget: int = 0) -> Pool:
    return Pool(slots=slots, least=16, budget=budget, page_bytes=100, sequence_bytes=sequence_bytes)


def test_compute_is_fitted_once_batches_differ() -> None:
    assert float(ComputeModel(0.99).at(np.array(4.0))) == 0.0
    assert float(compute(2, 8, 4).at(np.array(16.0))) == pytest.approx(11_600, rel=0.01)


def test_compute_of_one_batch_size_is_half_fixed() -> None:
    assert float(compute(4).at(np.array(8.0))) == pytest.approx(1.5 * 10_400)


def test_twice_the_sequences_in_twice_the_slots_miss_twice_as_much() -> None:
    curve = MissCurve(np.ones(BINS), 3.0)
    once, twice = (float(curve.of_pool(np.array(500.0 * n), np.array(2.0 * n))) for n in (1, 2))
    assert twice == pytest.approx(2 * once)
    assert bool((np.diff(curve.misses(np.arange(1.0, 5000.0))) <= 0).all())


def test_as_many_sequences_as_the_working_sets_leave_room_for() -> None:
    best, goodput = outlook(200).best(pool(), 1, 20)
    assert best == 5
    assert goodput == pytest.approx(5e6 / 10_500, rel=0.02)
    assert outlook(200).best(pool(), 1, 3)[0] == 3


def test_sequences_pay_for_their_room() -> None:
    # Each needs 200 slots and takes as much beside them, so half as many fit as without.
    priced = pool(slots=2000, sequence_bytes=200 * 100, budget=2000 * 100)
    assert outlook(200).best(pool(slots=2000), 1, 40)[0] == 10
    assert outlook(200).best(priced, 1, 40)[0] == 5
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
        if step % 8 == 0:
            pacer.ended()
        pacer.observe(10_000, 10**6)
    assert pacer.every is not None
    assert pacer.every <= 4
