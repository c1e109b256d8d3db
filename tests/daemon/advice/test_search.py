"""Where the search goes next, with and without a model."""

from __future__ import annotations

import numpy as np
import pytest

from hotset.daemon.advice.meter import Reading
from hotset.daemon.advice.promise import Promise
from hotset.daemon.advice.search import Search

COUNTS = np.arange(1.0, 33.0)


def read(concurrency: int, goodput: float) -> Reading:
    return Reading(concurrency, goodput, 0.001, 6, 0.1)


def climbed() -> Search:
    """From 5 to 6, which is better, as a model had hinted; the next step up is as far as 8."""
    search = Search(0.015)
    assert search.tell(read(5, 140.0))
    assert search.ask(5, 12, Promise(COUNTS, -abs(COUNTS - 6))) == 6
    assert search.tell(read(6, 150.0))
    return search


@pytest.mark.parametrize(("cliff", "wanted"), [(6, 7), (7, 7), (8, 8), (20, 8), (None, 8)])
def test_a_step_up_ends_where_the_model_sees_a_cliff(cliff: int | None, wanted: int) -> None:
    promise = None if cliff is None else Promise(COUNTS, np.where(cliff < COUNTS, 30.0, 20 * COUNTS))
    assert climbed().ask(1, 12, promise) == wanted


def test_a_model_that_is_wrong_hides_nothing() -> None:
    """It promises least where most is: both sides of the best are tried all the same, and the best is found."""
    search, promise = Search(0.015), Promise(COUNTS, 1e3 / COUNTS)
    asked: int | None = 4
    for _ in range(32):
        if asked is None:
            break
        search.tell(read(asked, 1000.0 / (1 + 0.01 * (asked - 16) ** 2)))
        asked = search.ask(1, 32, promise)
    assert asked is None
    assert search.best is not None
    assert abs(search.best.concurrency - 16) <= 2


def noisy(concurrency: int, goodput: float) -> Reading:
    return Reading(concurrency, goodput, 0.04, 6, 0.1)


@pytest.mark.parametrize(
    ("here", "there", "promised", "better"),
    [
        (noisy(5, 100.0), noisy(6, 101.0), 1.08, True),  # nothing that could be measured, and the model likes it
        (noisy(5, 100.0), noisy(6, 101.0), 0.97, False),
        (noisy(5, 100.0), noisy(6, 94.0), 1.08, False),
        (read(5, 100.0), read(6, 101.0), 1.08, False),  # measured well: the model has no say
        (read(5, 100.0), read(6, 102.0), 0.97, True),
        (noisy(5, 100.0), noisy(50, 101.0), 2.0, False),  # so far away it knows little
        (noisy(5, 100.0), noisy(6, 101.0), None, False),
    ],
)
def test_what_the_model_promises_counts_as_far_as_measuring_is_in_doubt(
    here: Reading, there: Reading, promised: float | None, better: bool
) -> None:
    counts = np.array([here.concurrency, there.concurrency], np.float64)
    search = Search(0.015)
    search.tell(here)
    promise = None if promised is None else Promise(counts, np.array([50.0, 50.0 * promised]))
    assert search.tell(there, promise) == better
