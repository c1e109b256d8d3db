"""Admission: who runs, who pauses, who may start."""

from __future__ import annotations

import random

import pytest

from hotset.protos.messages import Advice
from hotset.runtime.admission import Admission


def advised(limit: int, **advice: object) -> Admission:
    admission = Admission(limit)
    admission.advise(Advice.model_validate({"number": 1, **advice}))
    return admission


def test_without_advice_every_free_place_is_filled_at_once() -> None:
    admission = Admission(4)
    assert admission.turn([], [], 9) == ([], 4)
    assert admission.turn([0, 1], [], 1) == ([0, 1], 1)
    assert admission.turn([0, 1, 2, 3], [], 9) == ([0, 1, 2, 3], 0)


def test_a_lower_concurrency_pauses_the_youngest_and_a_higher_one_resumes_the_oldest_first() -> None:
    admission = advised(4, concurrency=2)
    assert admission.turn([3, 4, 5, 6], [], 2) == ([3, 4], 0)
    admission.advise(Advice(number=2, concurrency=3))
    assert admission.turn([3, 4], [5, 6], 2) == ([3, 4, 5], 0)
    admission.advise(Advice(number=3))
    assert admission.turn([3, 4, 5], [6], 2) == ([3, 4, 5, 6], 0)


def test_more_than_the_limit_never_run() -> None:
    assert advised(2, concurrency=50).turn([0, 1], [2], 3) == ([0, 1], 0)


def test_paused_sequences_go_before_waiting_requests() -> None:
    assert Admission(3).turn([0], [4], 5) == ([0, 4], 1)


def test_admissions_are_paced_in_steps() -> None:
    admission = advised(8, admit_every=3)
    running, admitted = [0], []
    for step in range(7):
        _, admit = admission.turn(running, [], 5)
        admitted += [step] * admit
        running += range(len(running), len(running) + admit)
    assert admitted == [0, 3, 6]


def test_pacing_never_leaves_the_machine_idle() -> None:
    admission = advised(8, admit_every=100)
    assert admission.turn([], [], 5) == ([], 1)
    assert admission.turn([], [], 5) == ([], 1)
    assert admission.turn([0], [], 5) == ([0], 0)


def test_a_free_place_goes_to_the_group_that_runs() -> None:
    admission = advised(2, groups=[[1, 9], [0, 7]])
    assert admission.turn([0], [5, 6, 7, 9], 0).run == [0, 7]
    assert admission.turn([1], [5, 6, 7, 9], 0).run == [1, 9]
    assert admission.turn([2], [5, 6, 7, 9], 0).run == [2, 5]


def test_places_keep_others_out_and_pause_nobody() -> None:
    admission = Admission(4)
    admission.places = 2
    assert admission.turn([0, 1, 2], [3], 4) == ([0, 1, 2], 0)
    assert admission.turn([0], [3], 4) == ([0, 3], 0)
    assert admission.turn([0], [], 4) == ([0], 1)
    admission.places = 0
    assert admission.turn([], [3], 4) == ([3], 0)


@pytest.mark.parametrize("seed", range(20))
def test_whatever_is_advised_everybody_ends(seed: int) -> None:
    """Random advice at every step: nobody starves, nobody runs twice, and no turn is wasted."""
    rng = random.Random(seed)
    admission, left = Admission(rng.randint(1, 5)), {}
    running: list[int] = []
    paused: list[int] = []
    waiting, born = 12, 0
    for step in range(4000):
        if rng.random() < 0.3:
            admission.advise(Advice(number=step, concurrency=rng.choice([None, 1, 2, 9]),
                                    admit_every=rng.choice([None, 1, 7]),
                                    groups=[rng.sample(range(15), 3) for _ in range(rng.randint(0, 3))]))  # fmt: skip
            admission.places = rng.randint(0, 5)
        run, admit = admission.turn(running, paused, waiting)
        assert len(run) + admit <= admission.limit
        assert len(set(run)) == len(run)
        assert set(run) <= {*running, *paused}
        assert run or admit
        waiting -= admit
        left.update({born + i: rng.randint(1, 9) for i in range(admit)})
        run, born = [*run, *range(born, born + admit)], born + admit
        for sequence in run:
            left[sequence] -= 1
        everybody = sorted(s for s in left if left[s] > 0)
        running, paused = [s for s in everybody if s in run], [s for s in everybody if s not in run]
        if not everybody and not waiting:
            return
    raise AssertionError("somebody starved")


def test_a_limit_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        Admission(0)


@pytest.mark.parametrize("seed", range(20))
def test_full_is_when_a_turn_changes_nothing(seed: int) -> None:
    """However many wait or are paused."""
    draw = random.Random(seed)
    admission = advised(draw.randint(1, 5), concurrency=draw.randint(1, 6))
    admission.places = draw.randint(0, 6)
    for running in range(1, 7):
        turn = admission.turn(range(running), range(10, 13), 3)
        assert admission.full(running) == (turn == (list(range(running)), 0))
