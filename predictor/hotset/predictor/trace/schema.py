"""The Parquet form of a trace log: schema, encodings and metadata."""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]
from pydantic import Field, TypeAdapter, ValidationError

from hotset.protos.errors import TraceError
from hotset.protos.trace import (
    COLUMNS,
    LOOKAHEAD_COLUMNS,
    METADATA_KEY,
    STEP_COLUMNS,
    STEPS_KEY,
    TRACE_VERSION,
    TraceMeta,
)

LOOKAHEAD = {name: int(name.removeprefix("lookahead_")) for name in LOOKAHEAD_COLUMNS}
PART_SUFFIX = ".parquet"
_STEPS = TypeAdapter(dict[str, list[Annotated[int, Field(ge=0, lt=1 << 63)]]])


def arrow_type(text: str) -> Any:
    """Arrow type of a type name in `hotset.protos.trace`."""
    if text.startswith("list<"):
        return pa.list_(pa.field("element", arrow_type(text[5:-1]), nullable=False))
    return pa.type_for_alias(text)


def schema(meta: TraceMeta, lookahead: tuple[int, ...]) -> Any:
    """Arrow schema of a log with the lookahead distances given; `meta` travels in its metadata."""
    columns = dict(COLUMNS) | {n: c for n, c in LOOKAHEAD_COLUMNS.items() if LOOKAHEAD[n] in lookahead}
    fields = [pa.field(name, arrow_type(kind), nullable=False) for name, (kind, _) in columns.items()]
    return pa.schema(fields, metadata={METADATA_KEY: meta.model_dump_json().encode()})


def list_column(values: npt.NDArray[Any], kind: Any) -> Any:
    """`values` [rows, n] as a list column of n items a row."""
    rows, n = values.shape
    offsets = pa.array(np.arange(rows + 1, dtype=np.int32) * np.int32(n))
    return pa.ListArray.from_arrays(offsets, pa.array(np.ascontiguousarray(values).reshape(-1)), type=kind)


def parquet_writer(where: Any, arrow_schema: Any) -> Any:
    """A Parquet writer with the encodings that pack and read best here (measured: the size of the npz sources).

    Page numbers compress best as split byte streams, scores and flags as dictionaries; checksums of the
    data pages let a reader tell a flipped bit from a recorded value.
    """
    split = [f for f in arrow_schema.names if f == "pages" or f in LOOKAHEAD]
    plain = [f for f in arrow_schema.names if f not in split]
    return pq.ParquetWriter(
        where,
        arrow_schema,
        compression="zstd",
        use_dictionary=[f"{f}.list.element" if f in ("scores", "flags") else f for f in plain],
        column_encoding={f"{f}.list.element": "BYTE_STREAM_SPLIT" for f in split},
        write_page_checksum=True,
    )


def parse_meta(found: Any, source: object) -> tuple[TraceMeta, tuple[int, ...]]:
    """Metadata and lookahead distances of an Arrow schema; TraceError if it is not one of ours."""
    raw = (found.metadata or {}).get(METADATA_KEY)
    if raw is None:
        raise TraceError(f"{source}: a Parquet file, but no hotset trace (no metadata {METADATA_KEY.decode()!r})")
    try:
        meta = TraceMeta.model_validate_json(raw)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise TraceError(f"{source}: bad trace metadata: {where}: {first['msg']}") from None
    if meta.version > TRACE_VERSION:
        raise TraceError(f"{source}: trace version {meta.version}; this hotset reads up to {TRACE_VERSION}")
    _check_columns(found, source)
    return meta, tuple(distance for name, distance in LOOKAHEAD.items() if name in found.names)


def parse_steps(found: Any, source: object) -> dict[str, npt.NDArray[np.int64]]:
    """STEP_COLUMNS of the steps that an Arrow schema's metadata tells of, none if it tells of none.

    A column that is missing is 0. Raises TraceError for anything else than lists of integers, equally long.
    """
    raw = (found.metadata or {}).get(STEPS_KEY, b"{}")
    try:
        columns = _STEPS.validate_json(raw)
    except ValidationError as error:
        raise TraceError(f"{source}: bad metadata of steps: {error.errors()[0]['msg']}") from None
    count = len(columns.get("epoch", ()))
    if any(len(values) != count for values in columns.values()):
        raise TraceError(f"{source}: bad metadata of steps: columns of different lengths")
    return {name: np.array(columns.get(name, [0] * count), np.int64) for name in STEP_COLUMNS}


def _check_columns(found: Any, source: object) -> None:
    for name, (kind, _) in COLUMNS.items():
        if name not in found.names:
            raise TraceError(f"{source}: column {name!r} is missing")
        if not _same_type(found.field(name).type, arrow_type(kind)):
            raise TraceError(f"{source}: column {name!r} has type {found.field(name).type}, expected {kind}")
    for name, (kind, _) in LOOKAHEAD_COLUMNS.items():
        if name in found.names and not _same_type(found.field(name).type, arrow_type(kind)):
            raise TraceError(f"{source}: column {name!r} has type {found.field(name).type}, expected {kind}")


def _same_type(found: Any, expected: Any) -> bool:
    """Equal, where any kind of list will do."""
    if pa.types.is_list(expected):
        is_list = pa.types.is_list(found) or pa.types.is_large_list(found) or pa.types.is_fixed_size_list(found)
        return bool(is_list and found.value_type == expected.value_type)
    return bool(found == expected)
