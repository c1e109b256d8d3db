"""The gate's verdict from figures, and its refusal of traces that were trained on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from hotset.predictor.experiments.fit import device_rows, fit, reuse_rows
from hotset.predictor.trace import Trace, read_trace
from hotset.training.errors import TrainingError
from hotset.training.gate import HEURISTICS, Figures, GateSettings, judge, make_settings, refuse_seen, run_gate
from hotset.training.logs import extent_of, narrow, slice_steps

MakeLog = Callable[..., Path]
SAMPLE = Path(__file__).parents[1] / "data" / "sample.parquet"


def figures(contender: str, stall: float, moved: int) -> Figures:
    return Figures(contender, demand_misses=moved, miss_ratio=0.1, moved_bytes=moved, stall_seconds=stall)


@pytest.mark.parametrize(
    ("stall", "moved", "passed", "why"),
    [
        (0.9, 90, True, "less stall at no more bytes"),
        (0.9, 100, True, "less stall"),
        (1.0, 90, False, "stalls 1 s, lru 1 s"),  # as good is not better
        (1.1, 90, False, "stalls 1.1 s, lru 1 s"),
        (0.5, 101, False, "moves 101 bytes, lru 100"),  # prefetching more must not buy it
    ],
)
def test_less_stall_at_no_more_bytes(stall: float, moved: int, passed: bool, why: str) -> None:
    verdict, reason = judge(figures("challenger", stall, moved), [figures("lru", 1.0, 100)])
    assert verdict is passed
    assert why in reason


def test_one_better_contender_is_enough_to_refuse_and_is_named() -> None:
    others = [figures("champion", 0.8, 80), figures("lru", 1.0, 100)]
    passed, reason = judge(figures("challenger", 0.9, 90), others)
    assert not passed
    assert "champion" in reason
    assert "lru" not in reason


def test_every_heuristic_competes_and_no_clairvoyant() -> None:
    assert {"lru", "score-ema", "arc", "s3fifo", "lirs"} <= set(HEURISTICS)
    assert not {"belady", "random"} & set(HEURISTICS)
    assert not any("learned" in name for name in HEURISTICS)


def test_a_sequence_that_was_trained_on_is_refused(make_log: MakeLog) -> None:
    trace = read_trace(make_log(sequences=2))
    first = trace.sequences[0]
    head = narrow(extent_of(first, trace.meta), slice_steps(first, 0, 30))
    with pytest.raises(TrainingError, match="sequence 0 of log was trained on"):
        refuse_seen([trace], [head.encode()])
    refuse_seen([Trace(trace.meta, trace.sequences[1:])], [head.encode()])


@pytest.mark.parametrize(("ratio", "pool"), [(0.5, "lane"), (2.0, "heap"), (float("nan"), "lane")])
def test_senseless_settings_are_one_clear_line(ratio: float, pool: str) -> None:
    with pytest.raises(TrainingError, match="choose"):
        make_settings(ratio=ratio, pool=pool)


def test_traces_without_a_lookahead_cannot_judge_heads_for_the_device(make_log: MakeLog) -> None:
    sample = read_trace(SAMPLE)
    model = fit(
        [reuse_rows(sample, fraction=0.05, seed=0)],
        device=[(values, uses) for values, uses in [device_rows(sample, fraction=0.05, seed=0)] if uses is not None],
    )
    blind = read_trace(make_log(sequences=2, steps=30))
    verdict = run_gate([blind], model, None, GateSettings(heuristics=("lru",)))
    assert not verdict.passed
    assert "hold no lookahead" in verdict.reason
    assert verdict.on_device == ()


def test_the_champion_on_the_device_is_to_be_beaten_at_its_own_bytes() -> None:
    sample = read_trace(SAMPLE)
    code, docs = (Trace(sample.meta, [sequence]) for sequence in sample.sequences)
    values, uses = device_rows(code, fraction=0.2, seed=0)
    assert uses is not None
    champion = fit([reuse_rows(code, fraction=0.05, seed=0)], device=[(values, uses)])
    heads = champion.device
    assert heads is not None
    # The same heads again, beside another plan head, are not better.
    challenger = fit([reuse_rows(code, fraction=0.06, seed=1)], device=[(values, uses)])
    verdict = run_gate([docs], challenger, champion, GateSettings(heuristics=("lru",)))
    mine, theirs, lru = verdict.on_device
    assert (mine.contender, theirs.contender, lru.contender) == ("challenger", "champion", "lru")
    assert mine.moved_bytes <= theirs.moved_bytes <= lru.moved_bytes
    assert theirs.stall_seconds < lru.stall_seconds
    assert not verdict.passed
    assert "on the device: the challenger stalls" in verdict.reason
