"""What a real run says of its machine: compute by batch, and what a layer waits for what it missed.

Least absolute deviations throughout: a step in which the machine did something else should not count more than another.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Float64 = npt.NDArray[np.float64]


class Machine(NamedTuple):
    """A step computes for `step_us + batch * sequence_us`; a layer that missed waits `batch_us + pages * page_us`."""

    step_us: float
    sequence_us: float
    batch_us: float
    page_us: float


def machine_of(
    compute_us: Float64, batch: Float64, stall_us: Float64, layers: Float64, pages: Float64, page_us: float | None
) -> Machine:
    """Fit to steps, [n] each: `layers` that missed, and the `pages` that they moved. `page_us` is fitted if None."""
    # Where every step has as many sequences, nobody can tell what one adds.
    alike = bool((batch == batch[0]).all())
    step_us, sequence_us = (least(compute_us, np.ones(len(batch))), 0.0) if alike else _line(compute_us, batch)
    if page_us is None:
        batch_us, page_us = _both(stall_us, layers, pages)
    else:
        batch_us = least(stall_us - pages * page_us, layers)
    return Machine(step_us, sequence_us, batch_us, page_us)


def _line(wanted: Float64, along: Float64) -> tuple[float, float]:
    return _both(wanted, np.ones(len(along)), along)


def _both(wanted: Float64, first: Float64, second: Float64) -> tuple[float, float]:
    """x, y >= 0 with the least sum of |wanted - x * first - y * second|, by reweighted least squares."""
    columns = np.stack((first, second), 1)
    weights: Float64 = np.ones(len(wanted))
    found: Float64 = np.zeros(2)
    for _ in range(50):
        found = np.asarray(np.linalg.lstsq(columns * weights[:, None], wanted * weights, rcond=None)[0], np.float64)
        weights = 1 / np.sqrt(np.maximum(np.abs(wanted - columns @ found), 1e-3))
    if found[0] < 0:
        return 0.0, least(wanted, second)
    return (float(found[0]), float(found[1])) if found[1] >= 0 else (least(wanted, first), 0.0)


def least(wanted: Float64, column: Float64) -> float:
    """x >= 0 with the least sum of |wanted - x * column|: a median of the ratios, weighted by `column` (Laplace)."""
    there = column > 0
    if not there.any():
        return 0.0
    ratios: Any = wanted[there] / column[there]
    order = np.argsort(ratios)
    reached = np.cumsum(column[there][order])
    return max(0.0, float(ratios[order][np.searchsorted(reached, reached[-1] / 2)]))
