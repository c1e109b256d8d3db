"""The split of a device against all splits there are."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hotset.daemon.advice.node import Node, Offer, hull, split

Losses = st.lists(st.floats(0, 100), min_size=1, max_size=6)


def offer(losses: list[float], least: float = 1.0) -> Offer:
    return Offer(least + np.arange(len(losses), dtype=np.float64), np.array(losses))


def convex(losses: list[float]) -> list[float]:
    """Falling, by ever less."""
    steps = sorted(losses, reverse=True)
    return list(np.concatenate([[sum(steps)], sum(steps) - np.cumsum(steps)]))


@given(st.lists(Losses, min_size=1, max_size=3), st.integers(0, 14))
def test_no_other_split_loses_less(all_losses: list[list[float]], budget: int) -> None:
    offers = {str(i): offer(convex(losses)) for i, losses in enumerate(all_losses)}
    least = sum(float(o.bytes[0]) for o in offers.values())
    share = split(offers, float(budget))
    assert sum(share.values()) <= max(budget, least) + 1e-9

    def loss(name: str, size: float) -> float:
        return float(np.interp(size, offers[name].bytes, offers[name].loss))

    reached = sum(loss(name, size) for name, size in share.items())
    for sizes in itertools.product(*(o.bytes for o in offers.values())):
        if sum(sizes) <= max(budget, least):
            assert reached <= sum(loss(n, s) for n, s in zip(offers, sizes, strict=True)) + 1e-6


@given(Losses)
def test_a_hull_lies_below_and_bends_one_way(losses: list[float]) -> None:
    points, hulled = offer(losses), hull(offer(losses))
    below = np.interp(points.bytes, hulled.bytes, hulled.loss)
    assert bool((below <= points.loss + 1e-9).all())
    slopes = np.diff(hulled.loss) / np.diff(hulled.bytes)
    assert bool((np.diff(slopes) > -1e-9).all())


def test_sessions_of_one_device_share_it_and_what_ends_gives_back() -> None:
    node = Node(device_bytes=6)
    greedy, modest = offer([90.0, 60.0, 30.0, 0.0]), offer([3.0, 2.0, 1.0, 0.0])
    assert node.offer("a", "gpu", modest) == 4.0
    assert node.offer("b", "gpu", greedy) == 4.0
    assert node.offer("a", "gpu", modest) == 2.0
    assert node.offer("c", "another", greedy) == 4.0
    node.forget("b")
    assert node.offer("a", "gpu", modest) == 4.0


def test_until_all_have_offered_each_has_an_equal_part() -> None:
    node = Node(device_bytes=6)
    greedy, modest = offer([90.0, 60.0, 30.0, 0.0]), offer([3.0, 2.0, 1.0, 0.0])
    for name, device in (("a", "gpu"), ("b", "gpu"), ("c", "another")):
        node.join(name, device)
    assert node.offer("a", "gpu", greedy) == 3.0
    assert node.offer("b", "gpu", modest) == 2.0
    assert node.offer("a", "gpu", greedy) == 4.0
    node.join("d", "gpu")
    assert node.offer("a", "gpu", greedy) == 2.0
    node.forget("d")
    assert node.offer("a", "gpu", greedy) == 4.0


@pytest.mark.parametrize(("budget", "device"), [(None, "gpu"), (6, "")])
def test_without_a_budget_or_a_device_nothing_limits(budget: int | None, device: str) -> None:
    assert Node(budget).offer("a", device, offer([1.0, 0.0])) is None
