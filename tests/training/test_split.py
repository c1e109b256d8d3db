"""Which sequences and steps are held out, and that none of them is trained on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from hotset.training.errors import TrainingError
from hotset.training.logs import open_logs
from hotset.training.split import split_logs

MakeLog = Callable[..., Path]


def test_sequences_are_held_out_whole(make_log: MakeLog) -> None:
    logs = open_logs([make_log("a", sequences=6, steps=3), make_log("b", sequences=4, steps=3, seed=1)])
    split = split_logs(logs, held_out=0.2, seed=3)
    sides = {(p.log, p.sequence): p.held_out for p in split.pieces}
    assert len(split.pieces) == len(sides) == 10
    assert sum(sides.values()) == 2
    assert split.description == "by sequence: 8 trained on, 2 held out"


def test_the_seed_decides_which(make_log: MakeLog) -> None:
    logs = open_logs([make_log(sequences=12, steps=3)])
    held_out = [tuple(p.sequence for p in split_logs(logs, seed=seed).pieces if p.held_out) for seed in (0, 0, 1, 2, 3)]
    assert held_out[0] == held_out[1]
    assert len(set(held_out)) > 1


def test_a_single_sequence_is_cut_in_time_and_that_is_said(make_log: MakeLog) -> None:
    logs = open_logs([make_log(sequences=1, steps=10)])
    split = split_logs(logs, seed=0)
    assert [(p.begin, p.end, p.held_out) for p in split.pieces] == [(0.0, 0.8, False), (0.8, 1.0, True)]
    assert split.description == "by time: the last 20% of the steps of the only sequence held out"
    with pytest.raises(TrainingError, match="cannot be split by sequence"):
        split_logs(logs, kind="sequence", seed=0)
