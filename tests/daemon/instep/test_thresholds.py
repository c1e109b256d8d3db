"""Thresholds and distances against a small model of a runtime that obeys them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from hotset.daemon.instep.distance import Distances
from hotset.daemon.instep.layers import FIGURES, LayerTally
from hotset.daemon.instep.threshold import MOST, Thresholds
from hotset.protos.errors import ProtocolError
from hotset.protos.lookahead import SAFE_PROBABILITY
from hotset.protos.messages import LayerFigure, Step, StepStats

Floats = npt.NDArray[np.float64]

LAYERS, PAGE = 4, 1000
NEWS = np.array([0.0, 20.0, 24.0, 26.0])
"""new pages of each layer in a step; a lookahead ranks twice as many"""


def step(
    figures: dict[LayerFigure, np.ndarray], *, step_us: int = 1000, stall_us: int = 0, layers: int = LAYERS
) -> Step:
    by_layer = np.zeros((FIGURES, layers), "<i4")
    for figure, values in figures.items():
        by_layer[figure] = np.rint(values)
    none = np.empty((0, 4), "<i4")
    empty = np.empty(0, "<i4")
    return Step(
        epoch=1, sequences=[], stats=StepStats(step_us=1000), lengths=empty, sequence_steps=empty,
        candidates=none, scores=none.astype("u1"), flags=none.astype("u1"), new_sequence=empty.astype("<i8"),
        new_group=empty, new_generation=empty.astype("<u4"), loaded=empty, evicted=empty, by_layer=by_layer,
    )  # fmt: skip


def obey(least: Floats, pages: npt.NDArray[np.int32]) -> dict[LayerFigure, Floats]:
    """A step of a runtime whose ranked pages are used with probabilities spread evenly over 0 to 1, so half of them."""
    ranked = 2 * NEWS
    wanted = ranked * (1 - least)
    taken = np.where(pages < 0, wanted, np.minimum(wanted, pages))
    # The surest come first.
    used = taken - taken**2 / np.maximum(4 * NEWS, 1)
    return {
        LayerFigure.STEP_PAGES: taken, LayerFigure.HELD_PAGES: wanted - taken, LayerFigure.STEP_USED: used,
        LayerFigure.STEP_WASTED: taken - used, LayerFigure.DEMAND_PAGES: NEWS - used,
        LayerFigure.DISTANCE: np.minimum(np.arange(LAYERS), 1),
    }  # fmt: skip


def settle(rate: float, *, steps: int = 1500, waited_us: float = 0.0) -> tuple[Thresholds, LayerTally]:
    thresholds, tally = Thresholds(LAYERS), LayerTally(LAYERS)
    for n in range(steps):
        told = obey(thresholds.least, thresholds.pages)
        told[LayerFigure.LINK_STALL_US] = np.full(LAYERS, waited_us)
        message = step(told)
        tally.observe(message)
        thresholds.observe(message)
        if n % 8 == 7:
            thresholds.look(rate, page_bytes=PAGE, share=0.8, floor=0.1, distance=tally.total[LayerFigure.DISTANCE])
    return thresholds, tally


def moved(tally: LayerTally) -> float:
    return float((tally.recent[LayerFigure.STEP_PAGES] + tally.recent[LayerFigure.DEMAND_PAGES]).sum())


def test_with_room_to_spare_all_but_the_unlikely_is_fetched() -> None:
    thresholds, _ = settle(rate=10_000.0)
    np.testing.assert_allclose(thresholds.least, 0.1, atol=1e-6)


@pytest.mark.parametrize("link_pages", [80, 90, 100])
def test_what_moves_keeps_within_the_link(link_pages: int) -> None:
    thresholds, tally = settle(rate=link_pages * PAGE / 1000 / 0.8)
    assert moved(tally) == pytest.approx(link_pages, rel=0.12)
    busy = thresholds.least[1:]
    assert ((busy > 0.1) & (busy < MOST)).all()


def test_a_slower_link_makes_every_layer_surer() -> None:
    slow, fast = (settle(rate=pages * PAGE / 1000 / 0.8)[0].least for pages in (80, 110))
    assert (slow[1:] > fast[1:]).all()


def test_when_demand_fills_the_link_nothing_is_fetched_in_the_step() -> None:
    thresholds, tally = settle(rate=0.5 * NEWS.sum() * PAGE / 1000)
    assert (thresholds.least[1:] > 0.9).all()
    assert (thresholds.pages <= 1).all()
    assert tally.recent[LayerFigure.STEP_PAGES].sum() < 2


def test_prefetches_that_attention_waits_for_shrink_the_budget() -> None:
    calm, waiting = settle(rate=200.0, steps=400), settle(rate=200.0, steps=400, waited_us=50.0)
    assert waiting[0].trust < 0.2 < calm[0].trust == 1.0
    assert (waiting[0].least[1:] > calm[0].least[1:]).all()


def test_before_a_look_the_runtimes_own_values_hold() -> None:
    thresholds = Thresholds(LAYERS)
    assert (thresholds.least == SAFE_PROBABILITY).all()
    assert (thresholds.pages == -1).all()


def test_layers_that_a_step_does_not_have_end_the_session() -> None:
    with pytest.raises(ProtocolError, match="tells of 5 layers, not 4"):
        LayerTally(LAYERS).observe(step({}, layers=5))


def test_a_tally_knows_precision_and_coverage_and_what_it_does_not_know() -> None:
    tally = LayerTally(2)
    assert tally.overall() == (None, None)
    told = {LayerFigure.STEP_USED: [0, 6], LayerFigure.STEP_WASTED: [0, 2], LayerFigure.DEMAND_PAGES: [0, 4]}
    for _ in range(3):
        tally.observe(step({figure: np.array(values) for figure, values in told.items()}, layers=2))
    np.testing.assert_allclose(np.array(tally.overall(), float), [0.75, 0.6])
    assert np.isnan(tally.precision()[0])
    shown = tally.as_dict(PAGE)
    assert shown["bytes"]["demand"] == 12 * PAGE
    assert shown["precision"] == [None, 0.75]
    assert shown["coverage"] == [None, 0.6]


def run_trials(late_layers: set[int], steps: int = 600) -> Distances:
    """A runtime whose prefetches come too late one layer early in some layers, and are a little less sure two early."""
    distances = Distances(LAYERS, trial=16, rest=32)
    for _ in range(steps):
        late = np.array([layer in late_layers for layer in range(LAYERS)])
        used = np.where(distances.now == 2, 7, np.where(late, 2, 9)) * (np.arange(LAYERS) > 0)
        figures = np.zeros((FIGURES, LAYERS), np.int32)
        figures[LayerFigure.STEP_USED], figures[LayerFigure.STEP_PAGES] = used, 10
        figures[LayerFigure.DEMAND_PAGES] = 10 - used
        distances.observe(figures, 1.0)
    return distances


def test_a_layer_whose_prefetches_come_late_looks_further_ahead() -> None:
    assert run_trials({3}).chosen.tolist() == [0, 1, 1, 2]
    # Layer 1 has but one layer below.
    assert run_trials({1}).chosen.tolist() == [0, 1, 1, 1]


def test_it_comes_back_when_that_does_better_again() -> None:
    distances = run_trials({2, 3})
    assert distances.chosen.tolist() == [0, 1, 2, 2]
    for _ in range(4000):
        used = np.where(distances.now == 2, 5, 9)
        figures = np.zeros((FIGURES, LAYERS), np.int32)
        figures[LayerFigure.STEP_USED], figures[LayerFigure.STEP_PAGES] = used, 10
        distances.observe(figures, 1.0)
    assert distances.chosen.tolist() == [0, 1, 1, 1]


def test_trials_in_vain_come_ever_less_often() -> None:
    assert run_trials(set(), steps=600).trials > run_trials(set(), steps=1200).trials - run_trials(set(), 600).trials


def test_waiting_for_the_link_counts_against_a_distance() -> None:
    distances = Distances(LAYERS, trial=16, rest=32)
    for _ in range(600):
        figures = np.zeros((FIGURES, LAYERS), np.int32)
        figures[LayerFigure.STEP_USED] = figures[LayerFigure.STEP_PAGES] = 10
        figures[LayerFigure.LINK_STALL_US] = np.where(distances.now == 1, 4, 0)
        distances.observe(figures, 0.5)
    assert distances.chosen.tolist() == [0, 1, 2, 2]
