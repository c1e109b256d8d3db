"""What replay reports, in memory and from files, in one process and in several."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from hotset.predictor.policies import PolicyError
from hotset.predictor.replay import LinkModel, Pool, ReplayResult, replay, replay_files, replay_many
from hotset.predictor.replay.plot import draw
from hotset.predictor.trace import Trace
from hotset.protos.errors import TraceError

MakeTrace = Callable[..., Trace]
NAMES = ["sieve", "score-ema", "random"]


def _without_time(results: list[ReplayResult]) -> list[dict[str, object]]:
    return [{k: v for k, v in asdict(r).items() if k != "replay_seconds"} for r in results]


@pytest.mark.parametrize("pool", ["lane", "shared"])
def test_files_give_what_memory_gives(pool: Pool, sample: Trace, sample_path: Path) -> None:
    link = LinkModel(3.0, 4.0, 5.0)
    here = [r for ratio in (1.5, 2.0) for r in replay_many([sample], NAMES, ratio=ratio, pool=pool, link=link, seed=3)]
    found = replay_files([sample_path], NAMES, ratios=[1.5, 2.0], pool=pool, link=link, seed=3)
    assert _without_time(found) == _without_time(here)


def test_processes_change_nothing(sample_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    several = replay_files(
        [sample_path, sample_path], ["lru"], ratios=[2.0], jobs=2, progress=lambda d, t: seen.append((d, t))
    )
    alone = replay_files([sample_path, sample_path], ["lru"], ratios=[2.0])
    assert _without_time(several) == _without_time(alone)
    assert seen == [(n, 4) for n in range(1, 5)]


def test_gap_is_measured_from_lru_to_belady(sample: Trace) -> None:
    lru, ema, belady = replay_many([sample], ["lru", "score-ema", "belady"], ratio=2.0)
    assert (lru.gap_closed, belady.gap_closed) == (0.0, 1.0)
    saved = lru.demand_misses - ema.demand_misses
    assert ema.gap_closed == saved / (lru.demand_misses - belady.demand_misses)
    assert replay([sample], "score-ema", ratio=2.0).gap_closed == ema.gap_closed


def test_no_gap_without_misses(make_trace: MakeTrace) -> None:
    assert replay([make_trace(0)], "lru", ratio=10.0).gap_closed is None


def test_stall_follows_the_formula(sample: Trace) -> None:
    """Layers with demand pay one latency, all pages their bytes."""
    free = replay([sample], "lru", ratio=2.0, link=LinkModel(1.0, 0.0, 50.0))
    assert free.stall_seconds == pytest.approx(free.demand_misses * 4096 / 1e9)
    slow = replay([sample], "lru", ratio=2.0, link=LinkModel(1.0, 1000.0, 50.0))
    batches = (slow.stall_seconds - free.stall_seconds) / 1e-3
    assert batches == pytest.approx(round(batches))
    assert 0 < round(batches) <= 79 * 6


def test_epochs_far_apart_cost_nothing(make_trace: MakeTrace) -> None:
    """A log of months counts as many steps as it recorded."""
    trace = make_trace(6, sequences=2)
    late = replace(trace.sequences[1], epochs=trace.sequences[1].epochs + 10**15)
    shifted = Trace(trace.meta, [trace.sequences[0], late])
    for policy in ("lru", "score-ema", "sieve", "belady"):
        assert replay([shifted], policy, ratio=4 / 3, pool="shared").demand_misses > 0


def test_pages_beyond_all_bounds_are_refused(make_trace: MakeTrace) -> None:
    trace = make_trace(6, sequences=1)
    pages = trace.sequences[0].pages.copy()
    pages[3, 2, 0] = 2**31 - 2
    with pytest.raises(PolicyError, match="pages of all lanes"):
        replay([Trace(trace.meta, [replace(trace.sequences[0], pages=pages)])], "lru", ratio=2.0)


@pytest.mark.parametrize("ratio", [0.99, 0.0, -2.0, float("nan"), float("inf")])
def test_a_pool_holds_a_selection_at_least(ratio: float, sample: Trace) -> None:
    with pytest.raises(PolicyError, match="the ratio is 1 or more"):
        replay([sample], "lru", ratio=ratio)


def test_traces_of_other_geometry_are_replayed_apart(make_trace: MakeTrace) -> None:
    with pytest.raises(PolicyError, match=r"traces differ in selected \(3 and 2\)"):
        replay([make_trace(0), make_trace(1, selected=2)], "lru", ratio=2.0)
    with pytest.raises(PolicyError, match="nothing to replay"):
        replay([], "lru", ratio=2.0)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="no such file"):
        replay_files([tmp_path / "none"], ["lru"], ratios=[2.0])


def test_plots(sample: Trace, tmp_path: Path) -> None:
    results = [r for ratio in (1.5, 2.0) for r in replay_many([sample], ["lru", "belady"], ratio=ratio)]
    draw(results, tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    draw(results, tmp_path / "a.html")
    page = (tmp_path / "a.html").read_text(encoding="utf-8")
    assert "<svg" in page
    assert page.count("<tr>") == 1 + len(results)
    assert "src=" not in page
    assert "<link" not in page
    for wrong in ("a.gif", "nowhere/a.png"):
        with pytest.raises(PolicyError, match=r"a plot is|no such folder"):
            draw(results, tmp_path / wrong)
