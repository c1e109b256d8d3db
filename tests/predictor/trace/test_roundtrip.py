"""What was written is what is read: parts, order, gaps, padding, and writers that die."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hotset.predictor.trace import SequenceTrace, Trace, TraceWriter, open_trace, read_trace, trace_info
from hotset.protos.errors import TraceError

MakeTrace = Callable[..., Trace]


def _write(folder: Path, trace: Trace, *, rows_per_part: int, close: bool = True) -> TraceWriter:
    """Append all steps of all sequences in the order of their epochs."""
    meta = trace.meta.model_copy(update={"prompt_tokens": {}})
    lookahead = tuple(trace.sequences[0].lookahead)
    writer = TraceWriter(folder, meta, rows_per_part=rows_per_part, lookahead=lookahead)
    rows = sorted((int(e), s.sequence, t) for s in trace.sequences for t, e in enumerate(s.epochs))
    for epoch, number, t in rows:
        s = trace.sequences[number]
        writer.append(
            sequence=number,
            step=int(s.steps[t]),
            epoch=epoch,
            length=int(s.lengths[t]),
            pages=s.pages[t],
            scores=s.scores[t],
            flags=s.flags[t],
            lookahead={d: ranks[t] for d, ranks in s.lookahead.items()},
        )
    if close:
        writer.close()
    return writer


def _assert_same(found: SequenceTrace, expected: SequenceTrace) -> None:
    assert (found.sequence, found.prompt_tokens) == (expected.sequence, expected.prompt_tokens)
    for name in ("steps", "lengths", "epochs", "pages", "scores", "flags", "selected"):
        a, b = getattr(found, name), getattr(expected, name)
        assert a.dtype == b.dtype, name
        assert np.array_equal(a, b), name
    assert found.lookahead.keys() == expected.lookahead.keys()
    for early, ranks in expected.lookahead.items():
        assert np.array_equal(found.lookahead[early], ranks)


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 1000),
    rows_per_part=st.integers(1, 200),
    sequences=st.integers(1, 3),
    lookahead=st.sampled_from([(), (1,), (1, 2)]),
)
def test_interleaved_sequences_in_parts(
    seed: int,
    rows_per_part: int,
    sequences: int,
    lookahead: tuple[int, ...],
    make_trace: MakeTrace,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    folder = tmp_path_factory.mktemp("log")
    trace = make_trace(seed, sequences=sequences, lookahead=lookahead)
    _write(folder, trace, rows_per_part=rows_per_part)
    found = read_trace(folder)
    assert found.meta == trace.meta
    for mine, theirs in zip(found.sequences, trace.sequences, strict=True):
        _assert_same(mine, theirs)
    reader = open_trace(folder)
    assert reader.sequence_ids == list(range(sequences))
    assert reader.epochs.tolist() == sorted({int(e) for s in trace.sequences for e in s.epochs})
    _assert_same(reader.read(sequences - 1), trace.sequences[-1])


def test_a_killed_writer_leaves_its_whole_parts(make_trace: MakeTrace, tmp_path: Path) -> None:
    trace = make_trace(1, sequences=1, steps=10)  # 4 lanes
    _write(tmp_path, trace, rows_per_part=12, close=False)  # never flushed again: the last step is lost
    (tmp_path / ".part-000003.parquet.77.tmp").write_bytes(b"PAR1 half a part")
    _assert_same(read_trace(tmp_path).sequences[0], trace.sequences[0].head(9))


def test_a_second_writer_goes_on_after_the_first(make_trace: MakeTrace, tmp_path: Path) -> None:
    trace = make_trace(2, sequences=1, steps=6)
    whole = trace.sequences[0]
    _write(tmp_path, Trace(trace.meta, [whole.head(3)]), rows_per_part=4)
    writer = TraceWriter(tmp_path, trace.meta, rows_per_part=4)
    for t in range(3, 6):
        writer.append(
            sequence=0,
            step=int(whole.steps[t]),
            epoch=int(whole.epochs[t]),
            length=int(whole.lengths[t]),
            pages=whole.pages[t],
            scores=whole.scores[t],
            flags=whole.flags[t],
        )
    writer.close()
    assert len(list(tmp_path.iterdir())) == 6
    _assert_same(read_trace(tmp_path).sequences[0], whole)


def test_buffers_may_be_reused_after_append(make_trace: MakeTrace, tmp_path: Path) -> None:
    trace = make_trace(3, sequences=1, steps=1)
    s = trace.sequences[0]
    pages = s.pages[0].copy()
    writer = TraceWriter(tmp_path, trace.meta, rows_per_part=1000)
    writer.append(
        sequence=0,
        step=int(s.steps[0]),
        epoch=int(s.epochs[0]),
        length=int(s.lengths[0]),
        pages=pages,
        scores=s.scores[0],
        flags=s.flags[0],
    )
    pages[:] = 0
    writer.close()
    _assert_same(read_trace(tmp_path).sequences[0], s)


def test_fewer_candidates_than_the_log_has_are_padded(make_trace: MakeTrace, tmp_path: Path) -> None:
    trace = make_trace(4, sequences=1, steps=1, candidates=6)
    writer = TraceWriter(tmp_path, trace.meta, rows_per_part=1)
    four = np.tile(np.arange(2, dtype=np.int32), (4, 1))
    ones = np.ones((4, 2), np.uint8)
    writer.append(sequence=5, step=3, epoch=9, length=20, pages=four, scores=ones, flags=ones)
    found = read_trace(tmp_path).sequences[0]
    assert found.pages[0, 0].tolist() == [0, 1, -1, -1, -1, -1]
    assert found.flags[0, 3].tolist() == [1, 1, 0, 0, 0, 0]
    assert (found.sequence, found.prompt_tokens) == (5, 16)


def test_wrong_shapes_are_refused(make_trace: MakeTrace, tmp_path: Path) -> None:
    meta = make_trace(4).meta
    writer = TraceWriter(tmp_path, meta, rows_per_part=1)
    wide = np.zeros((4, 7), np.int32)
    with pytest.raises(TraceError, match=r"pages of shape \(4, 7\), expected \(4, at most 6\)"):
        writer.append(
            sequence=0, step=0, epoch=0, length=9, pages=wide, scores=wide.astype("u1"), flags=wide.astype("u1")
        )
    with pytest.raises(TraceError, match=r"lookahead \[3\] unknown"):
        TraceWriter(tmp_path, meta, rows_per_part=1, lookahead=(3,))


def test_info_counts_what_is_there(sample_path: Path, make_trace: MakeTrace, tmp_path: Path) -> None:
    found = trace_info(open_trace(sample_path))
    assert [s.accesses for s in found.sequences] == [80 * 12 * 64] * 2
    assert [s.gaps for s in found.sequences] == [0, 0]
    assert found.sequences[0].lookahead == (1, 2)
    assert 0.66 < (found.sequences[0].overlap or 0) < 0.85
    trace = make_trace(5, sequences=1, steps=7)
    _write(tmp_path, trace, rows_per_part=1)
    steps = trace.sequences[0].steps
    assert trace_info(open_trace(tmp_path)).sequences[0].gaps == steps[-1] - steps[0] + 1 - 7
