"""Whatever is wrong with a log, the reader says so with a TraceError that names the file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hotset.predictor.trace import Trace, open_trace, read_trace
from hotset.predictor.trace.schema import schema
from hotset.predictor.trace.writer import write_file
from hotset.protos.errors import TraceError
from hotset.protos.trace import METADATA_KEY, STEPS_KEY, TraceMeta

Columns = dict[str, Any]
LANES = 4


def _columns(trace: Trace) -> Columns:
    s = trace.sequences[0]
    steps, lane = len(s.steps), np.arange(LANES)
    flat = {name: getattr(s, name).reshape(steps * LANES, -1).copy() for name in ("pages", "scores", "flags")}
    return flat | {
        "sequence": np.zeros(steps * LANES, np.int64),
        "step": np.repeat(s.steps, LANES),
        "epoch": np.repeat(s.epochs, LANES),
        "length": np.repeat(s.lengths, LANES),
        "layer": np.tile(lane // 2, steps),
        "head": np.tile(lane % 2, steps),
    }


@pytest.fixture(scope="module")
def trace(make_trace: Callable[..., Trace]) -> Trace:
    return make_trace(7, sequences=1, steps=5, full=True)


def _refused(path: Path, what: str) -> None:
    with pytest.raises(TraceError, match=what) as caught:
        read_trace(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def _set(column: str, row: int, value: int, item: int | None = None) -> Callable[[Columns], None]:
    def change(columns: Columns) -> None:
        columns[column][row if item is None else (row, item)] = value

    return change


def _drop_row(columns: Columns) -> None:
    for name in columns:
        columns[name] = columns[name][1:]


def _repeat_step(columns: Columns) -> None:
    for name in columns:
        columns[name] = np.concatenate([columns[name], columns[name][:LANES]])


def _select_padding(columns: Columns) -> None:
    columns["pages"][2, 1], columns["flags"][2, 1] = -1, 1


def _same_page_twice(columns: Columns) -> None:
    columns["pages"][3, 4] = columns["pages"][3, 0]


def _narrow(columns: Columns) -> None:
    columns["scores"] = columns["scores"][:, :3]


def _empty(columns: Columns) -> None:
    for name in columns:
        columns[name] = columns[name][:0]


CHANGES: dict[str, tuple[Callable[[Columns], None], str]] = {
    "negative page": (_set("pages", 0, -2, 0), "page -2 is negative"),
    "page beyond the end": (_set("pages", 5, 999, 1), "page 999 lies beyond the end"),
    "page named twice": (_same_page_twice, "named twice"),
    "padding selected": (_select_padding, "padding entry is flagged as selected"),
    "too many selected": (_set("flags", 1, 1), r"6 pages selected .* metadata says 3"),
    "unknown flag": (_set("flags", 1, 64, 5), "unknown bits"),
    "layer out of range": (_set("layer", 2, 2), "out of range"),
    "head out of range": (_set("head", 2, -1), "out of range"),
    "lane missing": (_drop_row, "lacks lanes"),
    "lane twice": (_set("head", 1, 0), "lacks lanes or has some twice"),
    "step twice": (_repeat_step, "lacks lanes or has some twice|recorded twice"),
    "lanes disagree on length": (_set("length", 3, 5), "disagree on length"),
    "lanes disagree on epoch": (_set("epoch", 3, 5), "disagree on epoch"),
    "shrinking sequence": (_set("length", slice(16, 20), 40), "shrinks"),  # type: ignore[arg-type]
    "epoch repeats": (_set("epoch", slice(4, 8), 100), "epochs do not rise"),  # type: ignore[arg-type]
    "narrow lists": (_narrow, "3 items a row"),
    "no rows": (_empty, "holds no steps"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_inconsistent_rows(change: str, trace: Trace, tmp_path: Path) -> None:
    columns = _columns(trace)
    edit, what = CHANGES[change]
    edit(columns)
    path = tmp_path / "log.parquet"
    write_file(path, trace.meta, (), columns)
    _refused(path, what)


def test_rows_in_any_order_are_one_trace(trace: Trace, tmp_path: Path) -> None:
    columns = _columns(trace)
    order = np.random.default_rng(0).permutation(len(columns["step"]))
    path = tmp_path / "log.parquet"
    write_file(path, trace.meta, (), {name: values[order] for name, values in columns.items()})
    assert np.array_equal(read_trace(path).sequences[0].pages, trace.sequences[0].pages)


def _good(trace: Trace, path: Path) -> Any:
    write_file(path, trace.meta, (), _columns(trace))
    return pq.read_table(path)


@pytest.mark.parametrize("name", ["pages", "flags", "sequence", "length"])
def test_missing_column(name: str, trace: Trace, tmp_path: Path) -> None:
    table = _good(trace, tmp_path / "good.parquet")
    pq.write_table(table.drop_columns([name]), tmp_path / "bad.parquet")
    _refused(tmp_path / "bad.parquet", f"column '{name}' is missing")


def test_wrong_type(trace: Trace, tmp_path: Path) -> None:
    table = _good(trace, tmp_path / "good.parquet")
    at = table.schema.get_field_index("scores")
    floats = table["scores"].cast(pa.list_(pa.float32()))
    pq.write_table(table.set_column(at, "scores", floats), tmp_path / "bad.parquet")
    _refused(tmp_path / "bad.parquet", "column 'scores' has type .*expected list<uint8>")


def test_nulls_and_uneven_lists(trace: Trace, tmp_path: Path) -> None:
    table = _good(trace, tmp_path / "good.parquet")
    at = table.schema.get_field_index("pages")
    rows = table["pages"].to_pylist()
    for broken, what in (
        ([[*rows[0][:-1], None], *rows[1:]], "nulls"),
        ([rows[0][:-1], *rows[1:]], "different lengths"),
    ):
        column = pa.array(broken, pa.list_(pa.int32()))
        pq.write_table(table.set_column(at, "pages", column), tmp_path / "bad.parquet")
        _refused(tmp_path / "bad.parquet", what)


def test_foreign_files(tmp_path: Path, trace: Trace) -> None:
    foreign = tmp_path / "foreign.parquet"
    pq.write_table(pa.table({"x": [1, 2]}), foreign)
    _refused(foreign, "no hotset trace")
    text = tmp_path / "text.parquet"
    text.write_text("step,page\n1,2\n")
    _refused(text, "not a readable Parquet file")
    (tmp_path / "empty.parquet").touch()
    _refused(tmp_path / "empty.parquet", "not a readable Parquet file")
    _refused(tmp_path / "nothing", "no such file")
    (tmp_path / "folder").mkdir()
    _refused(tmp_path / "folder", "holds no part")


def test_bad_metadata(tmp_path: Path, trace: Trace) -> None:
    path = tmp_path / "log.parquet"
    arrow_schema = schema(trace.meta, ())
    for raw, what in (
        (b"{", "bad trace metadata"),
        (b"{}", "model: Field required"),
        (trace.meta.model_dump_json().replace('"layers":2', '"layers":0').encode(), "layers"),
        (trace.meta.model_copy(update={"version": 99}).model_dump_json().encode(), "version 99"),
    ):
        pq.write_table(arrow_schema.with_metadata({METADATA_KEY: raw}).empty_table(), path)
        _refused(path, what)


def test_bad_notes_of_steps(tmp_path: Path, trace: Trace) -> None:
    path = tmp_path / "log.parquet"
    write_file(path, trace.meta, (), _columns(trace))
    assert len(open_trace(path).steps()["epoch"]) == 0
    table = pq.read_table(path)
    damaged = ((b"{", "Invalid JSON"), (b'{"epoch":[1],"step_us":[]}', "lengths"), (b'{"epoch":[-1]}', "greater"))
    for raw, what in damaged:
        pq.write_table(table.replace_schema_metadata({**table.schema.metadata, STEPS_KEY: raw}), path)
        with pytest.raises(TraceError, match=rf"log\.parquet: bad metadata of steps: .*{what}"):
            open_trace(path).steps()


def test_parts_of_different_traces(trace: Trace, tmp_path: Path) -> None:
    write_file(tmp_path / "a.parquet", trace.meta, (), _columns(trace))
    other: TraceMeta = trace.meta.model_copy(update={"page_size": 8})
    write_file(tmp_path / "b.parquet", other, (), _columns(trace))
    _refused(tmp_path, r"b\.parquet: page_size is 8, but 4 in a\.parquet")


def test_unknown_sequence(sample_path: Path) -> None:
    with pytest.raises(TraceError, match=r"no sequence 9; it has \[0, 1\]"):
        open_trace(sample_path).read(9)


@settings(max_examples=60, deadline=None)
@given(cut=st.floats(0, 0.999))
def test_truncated_at_any_byte(cut: float, sample_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("cut") / "log.parquet"
    whole = sample_path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * cut)])
    _refused(path, "not a readable Parquet file")


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_flipped_bytes_never_pass_unseen(
    data: st.DataObject, trace: Trace, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Pages of data are checksummed: a flip is an error, or it hit bytes that carry no rows."""
    path = tmp_path_factory.mktemp("flip") / "log.parquet"
    write_file(path, trace.meta, (), _columns(trace))
    raw = bytearray(path.read_bytes())
    for at in data.draw(st.lists(st.integers(0, len(raw) - 1), min_size=1, max_size=4)):
        raw[at] ^= data.draw(st.integers(1, 255))
    path.write_bytes(raw)
    found = _read_if_whole(path)
    if found is not None:
        for name in ("steps", "lengths", "epochs", "pages", "scores", "flags"):
            assert np.array_equal(getattr(found.sequences[0], name), getattr(trace.sequences[0], name)), name


def _read_if_whole(path: Path) -> Trace | None:
    try:
        return read_trace(path)
    except TraceError as error:
        if str(path) not in str(error):
            raise
        return None
