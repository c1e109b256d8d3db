"""Fingerprints, extents and slices of trace logs."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from hotset.predictor.trace import open_trace
from hotset.protos.errors import TraceError
from hotset.training.logs import (
    Extent,
    data_fingerprint,
    extent_of,
    log_fingerprint,
    narrow,
    open_logs,
    slice_steps,
)

MakeLog = Callable[..., Path]


def test_the_same_log_given_twice_counts_once(make_log: MakeLog, tmp_path: Path) -> None:
    first, other = make_log("a"), make_log("b", seed=1)
    copy = Path(shutil.copytree(first, tmp_path / "copy"))
    logs = open_logs([first, other, copy, first])
    assert [log.path for log in logs] == [first, other]
    assert logs[0].candidates == 4 * 60 * 4 * 12


def test_the_data_fingerprint_depends_on_content_only(make_log: MakeLog, tmp_path: Path) -> None:
    first, other = make_log("a"), make_log("b", seed=1)
    moved = Path(shutil.copytree(first, tmp_path / "moved"))
    assert log_fingerprint(first) == log_fingerprint(moved) != log_fingerprint(other)
    assert data_fingerprint(open_logs([first, other])) == data_fingerprint(open_logs([other, first]))


@pytest.mark.parametrize("content", [b"", b"PAR1 and then something else"])
def test_what_is_no_log_is_named(tmp_path: Path, content: bytes) -> None:
    broken = tmp_path / "broken.parquet"
    broken.write_bytes(content)
    with pytest.raises(TraceError, match=r"broken\.parquet"):
        open_logs([broken])
    with pytest.raises(TraceError, match="no such file"):
        open_logs([tmp_path / "absent"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(TraceError, match="no Parquet part"):
        open_logs([tmp_path / "empty"])


def test_a_slice_holds_the_steps_asked_for(make_log: MakeLog) -> None:
    sequence = open_trace(make_log()).read(2)
    part = slice_steps(sequence, 10, 25)
    assert part.sequence == 2
    assert part.lengths.tolist() == sequence.lengths[10:25].tolist()
    assert np.array_equal(part.selected, sequence.selected[10:25])


def test_extents_overlap_by_sequence_and_position(make_log: MakeLog) -> None:
    reader = open_trace(make_log())
    first, second = reader.read(0), reader.read(1)
    whole = extent_of(first, reader.meta)
    head, tail = (narrow(whole, slice_steps(first, *cut)) for cut in ((0, 40), (40, 60)))
    assert whole.overlaps(head)
    assert whole.overlaps(tail)
    assert not head.overlaps(tail)
    assert not whole.overlaps(extent_of(second, reader.meta))
    assert Extent.decode(tail.encode()) == tail


def test_a_sequence_is_known_again_in_a_copy_and_in_a_log_that_grew(make_log: MakeLog) -> None:
    short = open_trace(make_log("short", steps=30, sequences=1, session="s"))
    grown = open_trace(make_log("grown", steps=60, sequences=1, session="s"))
    other = open_trace(make_log("other", steps=60, sequences=1, session="t", seed=5))
    known = extent_of(short.read(0), short.meta)
    assert known.overlaps(extent_of(grown.read(0), grown.meta))
    assert not known.overlaps(extent_of(other.read(0), other.meta))
    # Attached late, so that the first step differs: session and sequence id still tell.
    late = slice_steps(grown.read(0), 20, 60)
    assert known.overlaps(extent_of(late, grown.meta))
