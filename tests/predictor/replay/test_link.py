"""Stall times by hand. A page of 1000 bytes takes 1 us at 1 GB/s."""

from __future__ import annotations

import numpy as np
import pytest

from hotset.predictor.policies import PolicyError
from hotset.predictor.replay import LinkModel
from hotset.predictor.trace.sequence import Int64

LINK = LinkModel(gbps=1.0, latency_us=5.0, layer_us=25.0)  # a layer hides 20 pages


def _pages(*steps: list[int]) -> Int64:
    return np.array(steps, np.int64)


def _stall_us(demand: Int64, prefetched: dict[int, Int64] | None = None, link: LinkModel = LINK) -> float:
    return link.stall_seconds(demand, prefetched or {}, 1000) * 1e6


def test_demand_waits_for_latency_and_bytes() -> None:
    assert _stall_us(_pages([0, 0, 0])) == 0
    assert _stall_us(_pages([3, 0, 7], [0, 1, 0])) == pytest.approx((5 + 3) + (5 + 7) + (5 + 1))
    assert LinkModel(2.0, 5.0, 25.0).stall_seconds(_pages([8]), {}, 1000) == pytest.approx((5 + 4) / 1e6)


def test_prefetch_that_fits_its_window_is_free() -> None:
    assert _stall_us(_pages([0, 0]), {1: _pages([0, 20])}) == 0
    assert _stall_us(_pages([0, 0, 0]), {2: _pages([0, 0, 40])}) == 0


def test_what_is_left_of_a_prefetch_is_waited_for() -> None:
    assert _stall_us(_pages([0, 0]), {1: _pages([0, 23])}) == pytest.approx(5 + 3)
    assert _stall_us(_pages([0, 4]), {1: _pages([0, 23])}) == pytest.approx(5 + 3 + 4)


def test_no_window_before_the_first_layer() -> None:
    for early in (0, 1):
        assert _stall_us(_pages([0, 0]), {early: _pages([6, 0])}) == pytest.approx(5 + 6)


def test_planned_pages_queue_in_layer_order() -> None:
    """30 pages for layer 1 and 30 for layer 2 from the step's begin: 10 are late for 1, 10 again for 2."""
    assert _stall_us(_pages([0, 0, 0]), {0: _pages([0, 30, 30])}) == pytest.approx((5 + 10) + (5 + 10))
    assert _stall_us(_pages([0, 0, 0]), {1: _pages([0, 30, 30])}) == pytest.approx((5 + 10) + (5 + 10))
    assert _stall_us(_pages([0, 0, 0]), {0: _pages([0, 10, 30])}) == 0
    assert _stall_us(_pages([0, 0, 0]), {1: _pages([0, 10, 30])}) == pytest.approx(5 + 10)


def test_a_link_slower_than_a_layer_hides_nothing() -> None:
    assert _stall_us(_pages([0, 0]), {1: _pages([0, 7])}, LinkModel(1.0, 30.0, 25.0)) == pytest.approx(30 + 7)


@pytest.mark.parametrize("wrong", [(0.0, 1.0, 1.0), (-1.0, 1.0, 1.0), (1.0, -1.0, 1.0), (1.0, 1.0, float("nan"))])
def test_impossible_links(wrong: tuple[float, float, float]) -> None:
    with pytest.raises(PolicyError, match="link model"):
        LinkModel(*wrong)
