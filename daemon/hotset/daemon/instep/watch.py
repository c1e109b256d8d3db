"""Whether the model that decides inside the step earns its place, by what the steps tell of it.

promise   what is prefetched at a least probability is used at least that often; if of enough prefetches less than
          BROKEN of that was used, the model is taken out of service
worse     once a window misses RISE of what the last window without a model did, or waits STALL_RISE as long, or nobody
          knows how the built-in policy does for UNTRIED windows, the model is tried: a window goes without it
trial     a model that misses less than none by GAIN, and waits no longer, is put back, and tried half as soon; any
          other is taken out of service
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import numpy as np

from hotset.daemon.ingest import Uses, count_uses
from hotset.protos.messages import LayerFigure, Step

WINDOW = 128
"""steps between two judgements"""
SETTLE = 16
"""steps after a change of model that count for neither side: prefetches and values of the other are still there"""
LEAST_MISSES = 500
"""in a window, below which there is nothing to gain"""
LEAST_SETTLED = 500
"""prefetches whose fate is known, below which they prove nothing"""
BROKEN = 0.5
RISE = 1.05
GAIN = 1.02
STALL_RISE, STALL_SLACK = 1.25, 0.01
"""times, and share of the steps' time beyond it: time by the clock is noisy"""
UNTRIED = 16


class Verdict(Enum):
    """What to do about the model."""

    KEEP = 0
    TRY = 1
    """go on without it, for a window"""
    RESTORE = 2
    WITHDRAW = 3


@dataclass
class _Window:
    """Sums over steps of one side."""

    steps: int = 0
    selected: int = 0
    missed: int = 0
    step_us: int = 0
    stall_us: int = 0

    @property
    def misses(self) -> float:
        """Share of the selected pages that were loaded on demand."""
        return self.missed / max(1, self.selected)

    @property
    def stall(self) -> float:
        """Share of the time that attention waited."""
        return self.stall_us / max(1, self.step_us)

    def add(self, step: Step) -> None:
        """One more step."""
        uses = _warm_uses(step)
        self.steps += 1
        self.selected += uses.selected
        self.missed += uses.selected - uses.hits
        self.step_us += step.stats.step_us
        self.stall_us += step.stats.stall_us

    def waits_longer(self, other: _Window) -> bool:
        """Whether it waited longer than the other, by more than noise."""
        return self.stall > STALL_RISE * other.stall + STALL_SLACK

    def __str__(self) -> str:
        return f"{self.misses:.2%} misses and {self.stall:.1%} stall"


class Watch:
    """Judges one model after another: `begin` with each, `observe` every step of a runtime that tells by layer."""

    def __init__(self) -> None:
        self.reason = ""
        """Why the last verdict was not to keep it."""
        self._without: _Window | None = None
        """The last one without a model."""
        self._window, self._skip = _Window(), 0
        self._version = ""
        self.begin()

    def begin(self) -> None:
        """Another model will decide: nothing is known of it."""
        self._used = self._settled = 0
        self._promised = 0.0
        self._accused: _Window | None = None
        """With the model, while it is tried."""
        self._windows, self._patience = 0, 1

    def observe(self, step: Step) -> Verdict:
        """One step, decided by the model that it names."""
        version = step.stats.device_model
        if version != self._version:
            self._version, self._window, self._skip = version, _Window(), SETTLE
        if self._skip:
            self._skip -= 1
            return Verdict.KEEP
        if version and self._breaks_promise(step):
            return Verdict.WITHDRAW
        window = self._window
        window.add(step)
        if window.steps < WINDOW:
            return Verdict.KEEP
        self._window = _Window()
        return self._with_model(window) if version else self._without_model(window)

    def _breaks_promise(self, step: Step) -> bool:
        told = step.by_layer
        if len(told) <= LayerFigure.LEAST:
            return False
        begun, used = told[LayerFigure.STEP_PAGES], int(told[LayerFigure.STEP_USED].sum())
        settled = used + int(told[LayerFigure.STEP_WASTED].sum())
        if (pages := int(begun.sum())) and settled:
            self._used, self._settled = self._used + used, self._settled + settled
            self._promised += settled * float((begun * told[LayerFigure.LEAST]).sum()) / (1e4 * pages)
        if self._settled < LEAST_SETTLED:
            return False
        broken = self._used < BROKEN * self._promised
        if broken:
            self.reason = f"of {self._settled} prefetches {self._used} were used, not {self._promised:.0f} as promised"
        self._used, self._settled, self._promised = 0, 0, 0.0
        return broken

    def _with_model(self, window: _Window) -> Verdict:
        """Such a window is over."""
        self._windows += 1
        usual = self._without
        if usual is None:
            due = self._windows >= UNTRIED
        else:
            due = window.misses > RISE * usual.misses or window.waits_longer(usual)
        if not due or window.missed < LEAST_MISSES or self._windows < self._patience:
            return Verdict.KEEP
        self._accused, self._windows = window, 0
        self.reason = f"{window} with it, {usual or 'nobody knows how many'} without"
        return Verdict.TRY

    def _without_model(self, window: _Window) -> Verdict:
        """Such a window is over."""
        self._without, accused = window, self._accused
        if accused is None:
            return Verdict.KEEP
        self._accused = None
        self._patience *= 2
        self.reason = f"{accused} with it, {window} without"
        earns = GAIN * accused.misses < window.misses and not accused.waits_longer(window)
        return Verdict.RESTORE if earns else Verdict.WITHDRAW


def _warm_uses(step: Step) -> Uses:
    """Of the sequences whose first step this is not: that one loads all it selects, whoever decides."""
    warm, flags = step.sequence_steps > 0, step.flags
    return count_uses(flags if warm.all() else flags[np.repeat(warm, len(flags) // max(1, len(warm)))])
