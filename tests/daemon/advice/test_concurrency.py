"""The controller on plants whose best concurrency is known: it comes near from any start, and stays."""

from __future__ import annotations

from collections.abc import Callable
from itertools import groupby, pairwise
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pytest

from hotset.daemon.advice.concurrency import MOST_LOST, ConcurrencyController
from hotset.daemon.advice.meter import Load, Reading, Trial
from hotset.daemon.advice.rules import AdviceRules

LIMIT = 64
STEPS = 4000
LAST = 1500
Plant = Callable[[int, int], tuple[float, float]]
"""(running, step) -> microseconds of compute and of stall."""


def concave(running: int, step: int) -> tuple[float, float]:
    return 10_000 + 100 * running, 30 * running * max(0, running - 12) ** 1.3


def plateau(running: int, step: int) -> tuple[float, float]:
    return 1000 + 600 * running, 0.03 * (1000 + 600 * running)


def cliff(running: int, step: int) -> tuple[float, float]:
    return 10_000 + 20 * running, 300_000 * (running > 23)


def rising(running: int, step: int) -> tuple[float, float]:
    return 10_000 + 20 * running, 100


def drifting(running: int, step: int) -> tuple[float, float]:
    return 10_000 + 100 * running, 30 * running * max(0, running - (12 if step < 1000 else 30)) ** 1.3


PLANTS = [concave, plateau, cliff, rising, drifting]


class Run(NamedTuple):
    controller: ConcurrencyController
    running: npt.NDArray[np.int64]
    us: npt.NDArray[np.float64]
    targets: list[int]

    @property
    def goodput(self) -> float:
        """Of the last steps."""
        return float(self.running[-LAST:].sum() / self.us[-LAST:].sum())


def drive(plant: Plant, start: int, *, demand: int = 1000, noise: float = 0.05, seed: int = 0) -> Run:
    """An engine that obeys: one sequence more or less in a step, until as many run as are asked for."""
    rng = np.random.default_rng(seed)
    controller = ConcurrencyController(AdviceRules(), LIMIT)
    running, targets = start, []
    counts, times = [], []
    for step in range(STEPS):
        wanted = min(LIMIT, demand, controller.target or start)
        running += int(np.sign(wanted - running))
        compute, stall = plant(running, step)
        compute *= 1 + noise * abs(rng.standard_normal())
        stall *= np.exp(4 * noise * rng.standard_normal())
        controller.observe(Load(running, demand - running, int(compute + stall), int(stall)))
        counts.append(running)
        times.append(compute + stall)
        targets.append(controller.target or start)
    return Run(controller, np.array(counts), np.array(times), targets)


def best_fixed(plant: Plant) -> float:
    """Goodput of the best fixed concurrency in the last steps, without noise."""
    steps = range(STEPS - LAST, STEPS, 100)
    return max(c / float(np.mean([sum(plant(c, step)) for step in steps])) for c in range(1, LIMIT + 1))


@pytest.mark.parametrize("start", [1, 8, LIMIT])
@pytest.mark.parametrize("plant", PLANTS)
def test_goodput_comes_within_5_percent_of_the_best_fixed(plant: Plant, start: int) -> None:
    # The plant's noise lengthens compute by 4% on average.
    assert drive(plant, start).goodput > 0.95 * best_fixed(plant) / 1.04


@pytest.mark.parametrize("plant", PLANTS)
def test_without_noise_it_finds_the_best(plant: Plant) -> None:
    assert drive(plant, 4, noise=0).goodput > 0.97 * best_fixed(plant)


@pytest.mark.parametrize("plant", PLANTS)
def test_it_does_not_oscillate(plant: Plant) -> None:
    run = drive(plant, 4)
    last = np.array(run.targets[-LAST:])
    best = run.controller.best
    assert best is not None
    assert np.mean(np.abs(last - best.concurrency) <= 0.15 * best.concurrency) > 0.8
    assert np.count_nonzero(np.diff(last)) < 40


def test_a_trial_that_is_no_gain_ends_soon() -> None:
    """Around the best of a plateau no neighbour is worth a change, and none is so much worse that it stands out."""
    run, rules = drive(plateau, 24, noise=0.0), AdviceRules()
    assert run.controller.best is not None
    best = run.controller.best.concurrency
    told = [(target, len(list(steps))) for target, steps in groupby(run.targets)]
    first_rest = next(i for i, (target, steps) in enumerate(told) if target == best and steps >= rules.hold)
    trials = [(there - here, steps) for (here, _), (there, steps) in pairwise(told[first_rest:]) if there != best]
    assert len(trials) >= 4
    assert all(steps <= abs(way) + rules.settle + 3 * rules.block for way, steps in trials)


def test_where_nobody_waits_there_is_nothing_to_steer() -> None:
    run = drive(rising, 3, demand=3)
    assert set(run.targets) == {3}
    assert run.controller.probes == 0


def test_movement_that_dominates_lowers_concurrency_although_nobody_waits() -> None:
    run = drive(lambda running, _step: (1000, 20_000 * max(0, running - 4)), 12, demand=12)
    assert run.controller.best is not None
    assert run.controller.best.concurrency == 4


def test_new_demand_is_used() -> None:
    controller = ConcurrencyController(AdviceRules(), LIMIT)
    running = 4
    for step in range(2000):
        demand = 4 if step < 500 else 40
        running = min(demand, controller.target or 4)
        controller.observe(Load(running, demand - running, 10_000, 0))
    assert running == 40


def test_a_runtime_that_cannot_run_more_is_not_asked_forever() -> None:
    controller = ConcurrencyController(AdviceRules())
    for _ in range(3000):
        controller.observe(Load(min(10, controller.target or 5), 100, 10_000, 100))
    assert controller.target == 10
    assert controller.holding


def test_a_hiccup_changes_nothing() -> None:
    controller = ConcurrencyController(AdviceRules(), 8)
    targets = []
    for step in range(2000):
        controller.observe(Load(8, 10, 10_000_000 if step % 700 == 650 else 10_000, 100))
        targets.append(controller.target)
    assert set(targets[200:]) == {8}


@pytest.mark.parametrize("stall", [0, 10**6])
def test_bounds_hold(stall: int) -> None:
    controller = ConcurrencyController(AdviceRules(least_concurrency=6, most_concurrency=20), LIMIT)
    running = 10
    for _ in range(1500):
        running = controller.target or running
        assert 6 <= running <= 20
        controller.observe(Load(running, 100, 10_000 + stall * running**2, stall * running**2))
    assert running == (6 if stall else 20)


def test_a_trial_that_loses_a_little_for_long_ends_as_one_that_collapses() -> None:
    """Four steps at the best, no more: a tenth is lost at each of them, and what it gained before pays for none."""
    best = Reading(10, 1000.0, 0.0, 8, 0.1)
    trial, steps = Trial(), 0
    for step_us in (5000, 5000):
        trial.observe(Load(12, 0, step_us, 0), best)
    assert trial.lost == 0.0
    while trial.lost <= MOST_LOST:
        trial.observe(Load(11, 0, 12100, 3000), best)
        steps += 1
    assert steps == 37  # each lacks 1.1 tokens, of the 10 that a step at the best makes
    seen = trial.reading()
    assert seen.concurrency == 11
    assert seen.goodput < best.goodput
