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
    """5, then 6, which is better: without a model the next step up is as far as 8, with one half more at most."""
    search = Search(0.015)
    assert search.tell(read(5, 140.0))
    assert search.ask(1, 12, None) is not None
    assert search.tell(read(6, 150.0))
    return search


@pytest.mark.parametrize(("cliff", "wanted"), [(6, 7), (7, 7), (8, 8), (20, 9)])
def test_a_step_up_ends_where_the_model_sees_a_cliff(cliff: int, wanted: int) -> None:
    search, promise = climbed(), Promise(COUNTS, np.where(cliff < COUNTS, 30.0, 20 * COUNTS))
    found = search.ask(1, 12, promise)
    while found is not None and found < 6:
        search.tell(read(found, 100.0))
        found = search.ask(1, 12, promise)
    assert found == wanted


def test_a_model_that_is_wrong_hides_nothing() -> None:
    """It promises least where most is: both sides of the best are tried all the same, and the best is found."""
    search, promise = Search(0.015), Promise(COUNTS, 1e3 / COUNTS)
    asked: int | None = 4
    for _ in range(32):
        if asked is None:
            break
        search.tell(read(asked, 1000.0 - 10 * (asked - 16) ** 2))
        asked = search.ask(1, 32, promise)
    assert asked is None
    assert search.best is not None
    assert abs(search.best.concurrency - 16) <= 2
