"""Write trace logs as crash-safe parts: a killed writer loses at most the rows it had not flushed."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa  # type: ignore[import-untyped]

from hotset.predictor.trace.schema import LOOKAHEAD, PART_SUFFIX, list_column, parquet_writer, schema
from hotset.predictor.trace.sequence import Int32, UInt8
from hotset.protos.errors import TraceError
from hotset.protos.trace import COLUMNS, LOOKAHEAD_COLUMNS, STEP_COLUMNS, STEPS_KEY, TraceMeta


class TraceWriter:
    """Appends steps to a folder of parts named `part-NNNNNN.parquet`.

    A part is written to a hidden temporary name, synced and renamed, so every part that a reader sees is
    whole. Parts that the folder already holds are kept; numbering goes on after them.
    """

    def __init__(self, folder: Path, meta: TraceMeta, *, rows_per_part: int, lookahead: tuple[int, ...] = ()) -> None:
        unknown = set(lookahead) - set(LOOKAHEAD.values())
        if unknown or rows_per_part < 1:
            raise TraceError(f"{folder}: lookahead {sorted(unknown)} unknown, or rows_per_part {rows_per_part} < 1")
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._meta, self._rows_per_part = folder, meta, rows_per_part
        self._lookahead = tuple(sorted(lookahead))
        self._lanes = meta.layers * meta.kv_heads
        self._prompt_tokens = dict(meta.prompt_tokens)
        self._pending: list[dict[str, npt.NDArray[Any]]] = []
        self._steps: list[Mapping[str, int]] = []
        self._next_part = _next_part(folder)
        self.written = sum(part.stat().st_size for part in folder.glob(f"part-*{PART_SUFFIX}"))
        """Bytes of all parts."""

    def append(
        self,
        *,
        sequence: int,
        step: int,
        epoch: int,
        length: int,
        pages: Int32,
        scores: UInt8,
        flags: UInt8,
        lookahead: Mapping[int, Int32] | None = None,
    ) -> None:
        """Add one step of one sequence. Arrays are [lanes, n], n at most the candidates of the metadata.

        Raises TraceError if a shape does not fit. Flushes by itself each `rows_per_part` rows.
        """
        # The daemon may hear of a sequence late, but a step adds one token, which fixes the prompt's length.
        self._prompt_tokens.setdefault(sequence, length - step - 1)
        n = self._meta.candidates
        row: dict[str, npt.NDArray[Any]] = {
            "pages": self._padded("pages", pages, n, np.int32, -1),
            "scores": self._padded("scores", scores, n, np.uint8, 0),
            "flags": self._padded("flags", flags, n, np.uint8, 0),
        }
        for early in self._lookahead:
            ranks = (lookahead or {}).get(early, np.full((self._lanes, 0), -1, np.int32))
            row[f"lookahead_{early}"] = self._padded("lookahead", ranks, n, np.int32, -1)
        lane = np.arange(self._lanes)
        row["layer"], row["head"] = lane // self._meta.kv_heads, lane % self._meta.kv_heads
        for name, value in (("sequence", sequence), ("step", step), ("epoch", epoch), ("length", length)):
            row[name] = np.full(self._lanes, value)
        self._pending.append(row)
        if len(self._pending) * self._lanes >= self._rows_per_part:
            self.flush()

    def note(self, step: Mapping[str, int]) -> None:
        """Say of a step of the batch what `STEP_COLUMNS` lists, before its rows are appended: both share a part."""
        self._steps.append(step)

    def flush(self) -> None:
        """Write what is pending as one part; nothing if no rows are."""
        if not self._pending:
            self._steps = self._steps[-1:]  # its rows may be on their way
            return
        rows = self._pending
        columns = {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}
        meta = self._meta.model_copy(update={"prompt_tokens": dict(self._prompt_tokens)})
        path = self._folder / f"part-{self._next_part:06d}{PART_SUFFIX}"
        write_file(path, meta, self._lookahead, columns, self._steps)
        self.written += path.stat().st_size
        self._next_part += 1
        self._pending, self._steps = [], []
        # A log of months must not name in each part all sequences that ever were.
        self._prompt_tokens = dict(self._meta.prompt_tokens)

    def close(self) -> None:
        """Flush; the writer may be used again."""
        self.flush()

    def _padded(self, name: str, values: npt.NDArray[Any], n: int, dtype: Any, pad: int) -> npt.NDArray[Any]:
        if values.ndim != 2 or values.shape[0] != self._lanes or values.shape[1] > n:
            raise TraceError(f"{self._folder}: {name} of shape {values.shape}, expected ({self._lanes}, at most {n})")
        if values.shape[1] == n:
            return values.astype(dtype, copy=True)  # callers reuse their buffers
        padded = np.full((self._lanes, n), pad, dtype)
        padded[:, : values.shape[1]] = values
        return padded


def write_file(
    path: Path,
    meta: TraceMeta,
    lookahead: tuple[int, ...],
    columns: Mapping[str, npt.NDArray[Any]],
    steps: Sequence[Mapping[str, int]] = (),
) -> None:
    """Write one Parquet file atomically. `columns`: [rows] or, for lists, [rows, n] by column name."""
    arrow_schema = schema(meta, lookahead)
    if steps:
        noted = {name: [step.get(name, 0) for step in steps] for name in STEP_COLUMNS}
        arrow_schema = arrow_schema.with_metadata({**arrow_schema.metadata, STEPS_KEY: json.dumps(noted).encode()})
    kinds = COLUMNS | LOOKAHEAD_COLUMNS
    arrays = [
        list_column(columns[f.name], f.type)
        if kinds[f.name][0].startswith("list")
        else pa.array(columns[f.name], type=f.type)
        for f in arrow_schema
    ]
    table = pa.Table.from_arrays(arrays, schema=arrow_schema)
    write_tables(path, arrow_schema, [table])


def write_tables(path: Path, arrow_schema: Any, tables: Any) -> None:
    """Write tables as row groups of one file that appears whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            with parquet_writer(file, arrow_schema) as writer:
                for table in tables:
                    writer.write_table(table, row_group_size=ROWS_PER_GROUP)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


ROWS_PER_GROUP = 1 << 13


def _next_part(folder: Path) -> int:
    names = [p.name[len("part-") : -len(PART_SUFFIX)] for p in folder.glob(f"part-*{PART_SUFFIX}")]
    return 1 + max((int(n) for n in names if n.isdigit()), default=-1)
