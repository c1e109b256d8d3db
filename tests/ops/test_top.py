"""The live view: what a window sums up, what fits into a terminal, and a frame drawn at any size."""

from __future__ import annotations

import time
from collections.abc import Iterator
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from hotset.ops.top import view
from hotset.ops.top.watch import Watcher, daemon_views
from hotset.ops.top.window import Window
from hotset.protos.messages import AccessFlag, Geometry, LayerFigure, Step, StepStats
from hotset.runtime.engine import Engine

SHAPE = Geometry(layers=3, kv_heads=2, page_size=4, selected=2, candidates=4, page_bytes=64, slots=60, groups=20)
HIT = AccessFlag.SELECTED | AccessFlag.HIT


def make_step(flags: list[list[int]], sequences: int, **stats: int) -> Step:
    rows = np.array(flags, "|u1")
    few = np.zeros(sequences, "<i4")
    return Step(
        epoch=7, sequences=list(range(sequences)), stats=StepStats(**stats), lengths=few, sequence_steps=few,
        candidates=np.zeros(rows.shape, "<i4"), scores=np.zeros(rows.shape, "|u1"), flags=rows,
        new_sequence=np.zeros(0, "<i8"), new_group=np.zeros(0, "<i4"), new_generation=np.zeros(0, "<u4"),
        loaded=np.zeros(0, "<i4"), evicted=np.zeros(0, "<i4"),
    )  # fmt: skip


def test_a_window_sums_lanes_over_sequences() -> None:
    window = Window(lanes=2)
    window.add(make_step([[HIT, 1], [HIT, 0], [1, 1], [HIT | 4, 0]], 2, step_us=1000, stall_us=250, moved_bytes=3000))
    window.add(make_step([[HIT, HIT], [HIT, 0]], 1, step_us=1000, moved_bytes=1000))
    assert window.selected.tolist() == [6, 3]
    assert window.missed.tolist() == [3, 0]
    told = window.summary(seconds=0.5)
    assert (told["steps_per_second"], told["tokens_per_second"], told["demand_misses"]) == (4.0, 6.0, 3)
    assert told["hit_ratio"] == pytest.approx(6 / 9, abs=1e-4)
    assert (told["stall_share"], told["prefetched_hits"]) == (0.125, 1)
    assert told["link_gbps"] == pytest.approx(8e-6)


def test_a_window_without_steps_has_no_shares() -> None:
    told = Window(lanes=2).summary(1.0)
    assert told["hit_ratio"] is told["stall_share"] is None
    assert told["steps_per_second"] == 0


@pytest.mark.parametrize("width", [10, 20, 40, 60, 80, 100, 150, 300])
def test_columns_fit_and_the_most_important_stay(width: int) -> None:
    names = [column.name for column in view.fitting(width)]
    assert sum(column.width + 1 for column in view.fitting(width)) - 1 <= width
    assert "PID" in names
    if width >= 20:
        assert "HIT" in names
    if width == 300:
        assert len(names) == len(view.COLUMNS)


def test_sparklines_scale_to_the_top() -> None:
    assert view.sparkline([0, 1, None, 2], 10, top=2) == "▁▅ █"
    assert view.sparkline([0, 5, 10, 15], 3, top=15) == "▃▆█"
    assert view.sparkline([0.0, 0.0], 5, top=0) == "▁▁"
    assert view.sparkline([1.0], 0, top=1) == ""


@pytest.mark.parametrize(("layers", "heads", "width"), [(3, 2, 80), (64, 8, 80), (64, 40, 30), (1, 1, 9)])
def test_a_heat_strip_fits_and_keeps_the_worst_lane(layers: int, heads: int, width: int) -> None:
    ratios = np.zeros((layers, heads))
    ratios[layers // 2, heads // 2] = 0.5
    ratios[0, 0] = np.nan if layers > 1 else 0.5
    lines = [line.plain for line in view.heat_strip(ratios, width, most_heads=8)]
    assert len(lines) == 1 + min(heads, 8)
    assert all(len(line) <= width for line in lines)
    assert any("█" in line for line in lines[1:])


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Engine]:
    monkeypatch.setenv("HOTSET_RUNTIME_DIR", str(tmp_path / "run"))
    with Engine.listen(model="m", geometry=SHAPE, builtin_policy="lru") as made:
        yield made


def step(engine: Engine) -> None:
    engine.begin_step()
    candidates = np.zeros((SHAPE.lanes, 4), np.int32)
    selected = np.zeros(candidates.shape, np.bool_)
    selected[:, 0] = True
    pages = engine.physical([1], candidates, selected)
    engine.gained(pages[~engine.resident[pages]], by="demand")
    report = engine.accesses([1], candidates, np.zeros(candidates.shape, np.uint8), selected)
    by_layer = np.zeros((len(LayerFigure), SHAPE.layers), np.int32)
    by_layer[LayerFigure.STEP_PAGES], by_layer[LayerFigure.DEMAND_PAGES] = [0, 4, 4], 2
    by_layer[LayerFigure.STEP_USED], by_layer[LayerFigure.STEP_WASTED] = [0, 3, 3], [0, 1, 1]
    stats = StepStats(step_us=100, stall_us=10, waiting=5, paused=2, device_model="v7")
    engine.end_step([1], [4], report._replace(by_layer=by_layer), stats)


def test_processes_come_and_go_and_a_frame_is_drawn_at_any_size(engine: Engine, tmp_path: Path) -> None:
    watcher = Watcher([], None, tmp_path / "logs")
    engine.open_sequence(1, prompt_tokens=4, groups=[0])
    end = time.monotonic() + 10
    (one,) = watcher.observed.values()
    while one.hello is None or not engine.attached:
        assert time.monotonic() < end
        watcher.poll()
    step(engine)
    while not watcher.cut()[0]["steps"]:
        assert time.monotonic() < end
        watcher.poll()
    row = one.row
    assert (row["model"], row["controller"], row["trouble"]) == ("m", "none", "")
    assert (row["hit_ratio"], row["stall_share"], row["waiting"], row["paused"]) == (0.0, 0.1, 5, 2)
    assert (row["moved_bytes"], row["hot_slots"], row["free"]) == (6 * 64, 60, 54)
    assert (row["device_model"], row["step_precision"], row["step_coverage"]) == ("v7", 0.75, 0.5)
    for width, height in ((200, 50), (80, 24), (40, 10), (20, 5), (10, 3)):
        text = StringIO()
        console = Console(file=text, width=width, height=height, color_system=None)
        console.print(view.screen([row], one, width, height))
        lines = text.getvalue().splitlines()
        assert max(map(len, lines)) <= width
        assert lines[0].startswith("hotset top"[:width])
        if width >= 80:
            assert any("3 layers x 2 heads" in line for line in lines)
            assert any(line.startswith("inside the step: v7  precision 75.0%  coverage 50.0%") for line in lines)
    engine.close()
    watcher.find()
    assert watcher.cut() == []
    watcher.close()


def test_the_daemons_view_is_the_newest_of_a_controller(tmp_path: Path) -> None:
    for name, text in {
        "a": '{"session": "s", "role": "controller", "updated": 1, "source": "heuristic"}',
        "b": '{"session": "s", "role": "controller", "updated": 2, "source": "learned"}',
        "c": '{"session": "s", "role": "standby", "updated": 3}',
        "d": '{"session": "t", "role": "ended", "updated": 3}',
        "e": "{",
        "f": "[]",
    }.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "status.json").write_text(text)
    views = daemon_views(tmp_path)
    assert list(views) == ["s"]
    assert views["s"]["source"] == "learned"
    assert daemon_views(tmp_path / "none") == {}
