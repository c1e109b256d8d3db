"""The trace log's thread: all that was appended is on disk, and a failing disk ends logging only."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hotset.daemon.recorder import Recorder, trace_meta
from hotset.daemon.state import LaneStep, SequenceState
from hotset.predictor.trace import open_trace, read_trace
from hotset.protos.messages import AccessFlag, Geometry, Hello, Step, StepStats
from hotset.protos.trace import STEP_COLUMNS

GEOMETRY = Geometry(layers=2, kv_heads=1, page_size=4, selected=2, candidates=4, page_bytes=64, slots=8, groups=8)
HELLO = Hello(
    session="s", pid=7, model="m", geometry=GEOMETRY, epoch=0, builtin_policy="ema", controller=True, lease_seconds=3
)


def part(step: int) -> LaneStep:
    pages = np.array([[0, 1, 2, -1], [0, 1, -1, -1]], np.int32)
    flags = np.array([[1, 3, 0, 0], [0, 7, 0, 0]], np.uint8) & np.uint8(AccessFlag.SELECTED | AccessFlag.HIT)
    return LaneStep(SequenceState(3, 10, GEOMETRY), step, 11 + step, pages, np.full((2, 4), 9, np.uint8), flags)


def make(folder: Path, flush_seconds: float = 60.0) -> Recorder:
    return Recorder(folder, trace_meta(HELLO), rows_per_part=1 << 20, flush_seconds=flush_seconds)


def test_flush_puts_everything_on_disk(tmp_path: Path) -> None:
    recorder = make(tmp_path / "log")
    for step in range(5):
        recorder.append(part(step), epoch=step)
    assert recorder.flush().wait(10)
    log = read_trace(tmp_path / "log")
    assert log.sequences[0].steps.tolist() == list(range(5))
    assert (recorder.logged, recorder.dropped) == (5, 0)
    recorder.close()
    parts = list((tmp_path / "log").glob("part-*"))
    assert recorder.written == sum(part.stat().st_size for part in parts) > 0
    # Whoever goes on with the folder counts on.
    again = make(tmp_path / "log")
    again.append(part(5), epoch=5)
    again.close()
    assert again.written > recorder.written


def test_whatever_the_writer_fails_of_the_recorder_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hotset.daemon.recorder.QUEUE", 4)
    recorder = make(tmp_path / "log")
    wrong = replace(part(0), scores=np.full((2, 4), "?"))  # nothing that the log can hold
    for _ in range(9):
        recorder.append(wrong, epoch=0)
        recorder.flush().wait(10)
    recorder.close()
    assert recorder.failed
    assert (recorder.logged, recorder.dropped) == (0, 8)


def test_what_waits_is_bounded_in_bytes_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hotset.daemon.recorder.PART_BYTES", 3 * part(0).pages.nbytes)
    recorder = make(tmp_path / "log")
    for step in range(9):
        recorder.append(part(step), epoch=step)
    recorder.flush().wait(10)
    assert len(list((tmp_path / "log").glob("part-*"))) > 3
    monkeypatch.setattr("hotset.daemon.recorder.QUEUE_BYTES", -1)
    recorder.append(part(9), epoch=9)
    recorder.close()
    assert (recorder.logged, recorder.dropped) == (9, 1)


def test_parts_name_their_own_sequences_only(tmp_path: Path) -> None:
    recorder = make(tmp_path / "log")
    for number in range(3):
        one = part(number)
        one.sequence.id = number
        recorder.append(one, epoch=number)
        recorder.flush().wait(10)
    recorder.close()
    parts = sorted((tmp_path / "log").glob("part-*"))
    assert [list(open_trace(each).meta.prompt_tokens) for each in parts] == [[0], [1], [2]]
    assert {s.sequence: s.prompt_tokens for s in read_trace(tmp_path / "log").sequences} == {0: 10, 1: 10, 2: 10}


def test_ranks_of_a_lookahead_are_columns_of_the_log(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "log", trace_meta(HELLO), rows_per_part=99, flush_seconds=60, lookahead=(1,))
    ranks = np.array([[-1, -1], [1, 0]], np.int32)
    recorder.append(replace(part(0), lookahead={1: ranks}), epoch=0)
    recorder.append(part(1), epoch=1)
    recorder.close()
    found = read_trace(tmp_path / "log").sequences[0].lookahead
    assert list(found) == [1]
    np.testing.assert_array_equal(found[1][0, :, :2], ranks)
    assert (found[1][1] == -1).all()


def test_what_the_runtime_said_of_a_step_lies_beside_its_rows(tmp_path: Path) -> None:
    recorder = make(tmp_path / "log", flush_seconds=60)
    for epoch in range(3):
        stats = StepStats(step_us=100 + epoch, stall_us=7, demand_pages=epoch, moved_bytes=64 * epoch, hot_slots=5)
        none = np.empty((0, 4), np.uint8)
        empty = np.empty(0, "<i4")
        recorder.note(
            Step(
                epoch=epoch, sequences=[3], stats=stats, lengths=np.array([9], "<i4"),
                sequence_steps=np.array([epoch], "<i4"), candidates=none.astype("<i4"), scores=none, flags=none,
                new_sequence=empty.astype("<i8"), new_group=empty, new_generation=empty.astype("<u4"), loaded=empty,
                evicted=empty,
            ),
            "learned" if epoch else "",
        )  # fmt: skip
        recorder.append(part(epoch), epoch=epoch)
        recorder.flush().wait(10)
    recorder.close()
    log = open_trace(tmp_path / "log")
    assert (len(log.files), log.meta.slots, log.meta.builtin) == (3, 8, "ema")
    found = log.steps()
    assert {name: found[name].tolist() for name in ("epoch", "step_us", "demand_pages", "moved_bytes", "planner")} == {
        "epoch": [0, 1, 2], "step_us": [100, 101, 102], "demand_pages": [0, 1, 2], "moved_bytes": [0, 64, 128],
        "planner": [0, 2, 2],
    }  # fmt: skip
    assert found.keys() == STEP_COLUMNS.keys()


def test_close_writes_what_is_pending(tmp_path: Path) -> None:
    recorder = make(tmp_path / "log")
    recorder.append(part(0), epoch=0)
    recorder.close()
    assert len(read_trace(tmp_path / "log").sequences) == 1


def test_pending_steps_are_written_in_time(tmp_path: Path) -> None:
    recorder = make(tmp_path / "log", flush_seconds=0.05)
    recorder.append(part(0), epoch=0)
    end = time.monotonic() + 10
    while not list((tmp_path / "log").glob("part-*")):
        assert time.monotonic() < end
        time.sleep(0.01)
    recorder.close()


def test_a_failing_disk_ends_logging_and_nothing_else(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    recorder = make(tmp_path / "log")
    (tmp_path / "log").rmdir()
    recorder.append(part(0), epoch=0)
    assert recorder.flush().wait(10)
    assert "No such file" in recorder.failed
    assert "event=log_failed" in caplog.text
    recorder.append(part(1), epoch=1)
    recorder.close()
    assert recorder.dropped == 1
