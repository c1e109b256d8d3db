"""When a model that decides inside the step is tried, put back and withdrawn."""

from __future__ import annotations

import numpy as np

from hotset.daemon.instep.layers import FIGURES
from hotset.daemon.instep.watch import GAIN, LEAST_SETTLED, SETTLE, UNTRIED, WINDOW, Verdict, Watch
from hotset.protos.messages import AccessFlag, LayerFigure, Step, StepStats

ROWS, SELECTED = 100, 10


class Steps:
    """Feeds a watch; `missed` are misses a step, of ROWS * SELECTED pages."""

    def __init__(self) -> None:
        self.watch = Watch()
        self.epoch = 0

    def run(self, steps: int, version: str, missed: int, **told: int) -> list[Verdict]:
        """Verdicts other than to keep it."""
        said = []
        for _ in range(steps):
            self.epoch += 1
            said.append(self.watch.observe(make_step(self.epoch, version, missed, **told)))
        return [verdict for verdict in said if verdict is not Verdict.KEEP]

    def window(self, version: str, missed: int, **told: int) -> list[Verdict]:
        """One window after a change of model."""
        return self.run(SETTLE + WINDOW, version, missed, **told)


def make_step(
    epoch: int, version: str, missed: int, *, first: int = 0, stall_us: int = 0, begun: int = 0, used: int = 0,
    wasted: int = 0, least: int = 1000,
) -> Step:  # fmt: skip
    by_layer = np.zeros((FIGURES, 1), "<i4")
    by_layer[LayerFigure.STEP_PAGES], by_layer[LayerFigure.LEAST] = begun, least
    by_layer[LayerFigure.STEP_USED], by_layer[LayerFigure.STEP_WASTED] = used, wasted
    flags = np.full(ROWS * SELECTED, AccessFlag.SELECTED | AccessFlag.HIT, np.uint8)
    flags[:missed] = AccessFlag.SELECTED
    empty = np.empty(0, "<i4")
    return Step(
        epoch=epoch, sequences=[1], stats=StepStats(step_us=1000, stall_us=stall_us, device_model=version),
        lengths=np.array([99], "<i4"), sequence_steps=np.array([0 if first else epoch], "<i4"),
        candidates=np.zeros((ROWS, SELECTED), "<i4"), scores=np.zeros((ROWS, SELECTED), "u1"),
        flags=flags.reshape(ROWS, SELECTED), new_sequence=empty.astype("<i8"), new_group=empty,
        new_generation=empty.astype("<u4"), loaded=empty, evicted=empty, by_layer=by_layer,
    )  # fmt: skip


def test_one_that_misses_less_is_left_alone() -> None:
    steps = Steps()
    assert steps.window("", 100) == []
    for _ in range(2 * UNTRIED):
        assert steps.window("m", 60, stall_us=2) == []


def test_one_that_misses_more_is_tried_and_withdrawn() -> None:
    steps = Steps()
    steps.window("", 100)
    assert steps.window("m", 120) == [Verdict.TRY]
    assert steps.window("", 100) == [Verdict.WITHDRAW]
    assert "12.00% misses" in steps.watch.reason


def test_where_the_load_has_changed_it_is_put_back_and_tried_half_as_soon() -> None:
    steps = Steps()
    steps.window("", 100)
    for windows in (1, 2, 4, 8):
        assert steps.run(SETTLE, "m", 120 * windows) == []
        for _ in range(windows - 1):
            assert steps.run(WINDOW, "m", 120 * windows) == []
        assert steps.run(WINDOW, "m", 120 * windows) == [Verdict.TRY]
        # Without it, it is worse still; from here on that is what is usual.
        assert steps.window("", int(120 * windows * GAIN) + 2) == [Verdict.RESTORE]


def test_one_of_which_nothing_is_known_is_tried_in_the_end() -> None:
    steps = Steps()
    assert steps.run(SETTLE + (UNTRIED - 1) * WINDOW, "m", 60) == []
    assert steps.run(WINDOW, "m", 60) == [Verdict.TRY]
    assert steps.window("", 100) == [Verdict.RESTORE]
    for _ in range(2 * UNTRIED):
        assert steps.run(WINDOW, "m", 60) == []


def test_one_that_keeps_attention_waiting_is_withdrawn() -> None:
    steps = Steps()
    steps.window("", 100, stall_us=100)
    assert steps.window("m", 90, stall_us=200) == [Verdict.TRY]
    assert steps.window("", 100, stall_us=100) == [Verdict.WITHDRAW]


def test_first_steps_of_sequences_count_for_neither_side() -> None:
    steps = Steps()
    steps.window("", 100)
    assert steps.window("m", 900, first=1) == []


def test_prefetches_that_are_not_used_as_promised_end_it() -> None:
    steps = Steps()
    few = {"begun": 10, "used": 1, "wasted": 9}
    settled = LEAST_SETTLED // 10
    assert steps.run(SETTLE + settled, "m", 60, least=1900, **few) == []
    assert steps.run(settled, "m", 60, least=2300, **few) == [Verdict.WITHDRAW]
    assert steps.watch.reason == "of 500 prefetches 50 were used, not 115 as promised"


def test_another_model_begins_anew() -> None:
    steps = Steps()
    steps.window("", 100)
    assert steps.window("m", 120) == [Verdict.TRY]
    steps.watch.begin()
    assert steps.window("", 100) == []
    assert steps.window("n", 90) == []
