"""Where a model sends the controller before anything is measured."""

from __future__ import annotations

import numpy as np
import pytest

from hotset.daemon.advice.concurrency import ConcurrencyController
from hotset.daemon.advice.guess import LEAP, PATIENCE, TRIES, Guess
from hotset.daemon.advice.meter import Load, Reading
from hotset.daemon.advice.promise import Promise
from hotset.daemon.advice.rules import AdviceRules

LIMIT = 128


def seen(running: int, stall: float = 0.1) -> Reading:
    return Reading(running, 1000.0, 0.0, 1, stall)


@pytest.mark.parametrize("start", [1, 8, 128])
def test_it_leaps_until_the_model_points_at_where_we_are(start: int) -> None:
    guess, here, path = Guess(), start, []
    while not guess.over:
        wanted = guess.next(seen(here), 12, 1, LIMIT)
        here = wanted or here
        path.append(here)
    assert here == 12
    assert max(max(a, b) / min(a, b) for a, b in zip([start, *path], path, strict=False)) <= LEAP


def test_without_a_model_it_goes_down_in_stall_only() -> None:
    guess = Guess()
    assert guess.next(seen(100, stall=0.9), None, 1, LIMIT) == 25
    assert guess.next(seen(25, stall=0.5), None, 1, LIMIT) == 16
    for _ in range(PATIENCE):
        assert not guess.over
        assert guess.next(seen(16, stall=0.2), None, 1, LIMIT) is None
    assert guess.over


def test_without_a_model_nothing_speaks_for_fewer_than_fit() -> None:
    guess = Guess()
    assert guess.next(seen(100, stall=0.9), None, 1, LIMIT, fits=40) == 40
    assert guess.next(seen(40, stall=0.9), None, 1, LIMIT, fits=40) is None
    assert Guess().next(seen(40, stall=0.9), 12, 1, LIMIT, fits=40) == 12


def test_it_does_not_go_back_to_the_stall_that_it_left() -> None:
    guess = Guess()
    assert guess.next(seen(64, stall=0.9), None, 1, LIMIT) == 16
    assert guess.next(seen(16, stall=0.2), 60, 1, LIMIT) == 32


def test_where_fewer_stall_as_much_it_goes_up_as_hinted() -> None:
    guess = Guess()
    assert guess.next(seen(8, stall=0.5), None, 1, LIMIT) == 5
    assert guess.next(seen(5, stall=0.5), 40, 1, LIMIT) == 20
    assert Guess().next(seen(1, stall=0.5), None, 1, LIMIT) is None


def test_a_model_that_points_up_and_down_is_followed_half_of_the_way_back() -> None:
    guess = Guess()
    assert guess.next(seen(10), 16, 1, LIMIT) == 16
    assert guess.next(seen(16), 6, 1, LIMIT) == 10
    assert guess.next(seen(10), 16, 1, LIMIT) == 13
    assert guess.next(seen(13), 10, 1, LIMIT) is None
    assert guess.over


def test_it_always_ends() -> None:
    # A model that never agrees with itself.
    guess, here = Guess(), 10
    for _ in range(TRIES):
        here = guess.next(seen(here), 40 if here < 20 else 10, 1, LIMIT) or here
    assert guess.over


def test_a_mountain_of_stall_is_left_within_a_few_steps_and_the_hint_is_reached_before_any_measurement() -> None:
    controller = ConcurrencyController(
        AdviceRules(), LIMIT, lambda _least, _most: Promise(np.arange(9.0, 12.0), np.array([1.0, 2.0, 1.0]))
    )
    running, path = LIMIT, []
    for _ in range(60):
        running = controller.target or running
        path.append(running)
        stall = 500 * running * max(0, running - 10)
        controller.observe(Load(running, LIMIT - running, 1000 + stall, stall))
    assert path[4] == 32
    assert path[20] == 10
    assert controller.best is None or controller.best.concurrency == 10


@pytest.mark.parametrize(("limit", "least", "target"), [(64, 1, 12), (64, 20, 20), (12, 1, None), (0, 1, 12)])
def test_it_starts_with_those_that_fit_where_more_could_run(limit: int, least: int, target: int | None) -> None:
    controller = ConcurrencyController(AdviceRules(least_concurrency=least), limit, fits=12)
    controller.start()
    assert controller.target == target


def test_a_start_that_was_too_low_is_left_as_soon_as_the_model_knows_better() -> None:
    rates = Promise(np.arange(20.0, 41.0), np.arange(20.0, 41.0))
    controller, known = ConcurrencyController(AdviceRules(), LIMIT, lambda *_: rates if known else None, fits=6), False
    controller.start()
    for step in range(48):
        known = step >= 12
        running = controller.target or 0
        controller.observe(Load(running, LIMIT - running, 2000, 1000))
        assert running == 6 or known
    assert controller.target == 40


def test_it_begins_where_an_earlier_controller_stood() -> None:
    controller = ConcurrencyController(AdviceRules(most_concurrency=9), LIMIT)
    controller.resume(6)
    assert controller.target == 6
    for _ in range(100):
        controller.observe(Load(controller.target or 0, 0, 10_000, 100))
    assert controller.best is not None
    assert controller.best.concurrency == 6
    controller.resume(200)
    assert controller.target == 9
