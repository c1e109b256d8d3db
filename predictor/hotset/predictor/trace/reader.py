"""Read trace logs: whole, or one sequence at a time for logs larger than memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]

from hotset.predictor.trace.schema import PART_SUFFIX, parse_meta, parse_steps
from hotset.predictor.trace.sequence import Int64, SequenceTrace, Trace, check_sequence
from hotset.protos.errors import TraceError
from hotset.protos.trace import COLUMNS, TraceMeta

_Columns = dict[str, npt.NDArray[Any]]
_SAME_IN_ALL_PARTS = ("model", "layers", "kv_heads", "page_size", "selected", "candidates", "page_bytes")


@dataclass(frozen=True)
class _Part:
    """A file of the log, its lookahead distances, and which sequences each row group may hold."""

    path: Path
    file: Any
    lookahead: tuple[int, ...]
    sequences: list[frozenset[int]]
    epochs: Int64
    """those of its rows, ascending, each once"""


class TraceReader:
    """A trace log opened for reading by sequence; made by `open_trace`. Memory: one sequence at a time."""

    def __init__(self, path: Path, meta: TraceMeta, parts: list[_Part]) -> None:
        self.path = path
        self.meta = meta
        self._parts = parts
        common = set.intersection(*(set(part.lookahead) for part in parts))
        self.lookahead: tuple[int, ...] = tuple(sorted(common))
        """how many layers early ranks were recorded, in every part; empty without a lookahead"""

    @property
    def sequence_ids(self) -> list[int]:
        """Sequences in the log, ascending."""
        return sorted({s for part in self._parts for group in part.sequences for s in group})

    @property
    def files(self) -> list[Path]:
        """The parts, in order."""
        return [part.path for part in self._parts]

    @property
    def epochs(self) -> Int64:
        """Steps of the batch that the log holds, ascending."""
        return np.unique(np.concatenate([part.epochs for part in self._parts]))

    def steps(self) -> dict[str, Int64]:
        """What the runtime said of the steps: STEP_COLUMNS, rising by epoch; of no step where it was not logged.

        Raises TraceError if it is damaged.
        """
        parts = [parse_steps(part.file.schema_arrow, part.path) for part in self._parts]
        columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        _, first = np.unique(columns["epoch"], return_index=True)
        return {name: values[first] for name, values in columns.items()}

    def read(self, sequence_id: int) -> SequenceTrace:
        """All recorded steps of one sequence. Raises TraceError if it is not there or is corrupt."""
        chunks = [
            chunk
            for part in self._parts
            for group, members in enumerate(part.sequences)
            if sequence_id in members
            for chunk in [self._read_group(part, group, sequence_id)]
        ]
        if not chunks:
            raise TraceError(f"{self.path}: no sequence {sequence_id}; it has {self.sequence_ids}")
        widths = {name: {c[name].shape[1:] for c in chunks} for name in chunks[0]}
        uneven = [name for name, shapes in widths.items() if len(shapes) > 1]
        if uneven:
            raise TraceError(f"{self.path}: column {uneven[0]!r} has lists of different lengths")
        columns = {name: np.concatenate([c[name] for c in chunks]) for name in chunks[0]}
        trace = _assemble(columns, sequence_id, self.meta, self.lookahead, self.path)
        check_sequence(trace, self.meta, self.path)
        return trace

    def __iter__(self) -> Iterator[SequenceTrace]:
        return (self.read(s) for s in self.sequence_ids)

    def _read_group(self, part: _Part, group: int, sequence_id: int) -> _Columns:
        names = [*COLUMNS, *(f"lookahead_{early}" for early in self.lookahead)]
        with _parquet_errors(part.path):
            table = part.file.read_row_group(group, columns=names, use_threads=False)
        columns = {name: _to_numpy(table[name], name, part.path) for name in names}
        for name in ("pages", "scores", "flags"):
            if columns[name].shape[1] != self.meta.candidates:
                raise TraceError(
                    f"{part.path}: column {name!r} has {columns[name].shape[1]} items a row,"
                    f" but metadata says {self.meta.candidates} candidates"
                )
        mine = columns["sequence"] == sequence_id
        return columns if bool(mine.all()) else {name: values[mine] for name, values in columns.items()}


def open_trace(path: str | Path) -> TraceReader:
    """Open a Parquet file or a folder of parts (hidden and temporary files are ignored).

    Raises TraceError naming the file if one is missing, truncated, foreign, or disagrees with the others.
    """
    path = Path(path)
    files = _part_files(path)
    opened = [_open_part(file) for file in files]
    first = opened[0][0]
    prompt_tokens: dict[int, int] = {}
    for meta, part in opened:
        for key in _SAME_IN_ALL_PARTS:
            if getattr(meta, key) != getattr(first, key):
                raise TraceError(
                    f"{part.path}: {key} is {getattr(meta, key)!r}, but {getattr(first, key)!r} in {files[0].name}"
                )
        prompt_tokens |= meta.prompt_tokens
    return TraceReader(path, first.model_copy(update={"prompt_tokens": prompt_tokens}), [part for _, part in opened])


def read_trace(path: str | Path) -> Trace:
    """Read a whole log into memory. Raises TraceError as `open_trace` and `TraceReader.read` do."""
    reader = open_trace(path)
    return Trace(reader.meta, list(reader))


def _part_files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise TraceError(f"{path}: no such file or folder")
    files = sorted(p for p in path.glob(f"*{PART_SUFFIX}") if not p.name.startswith(".") and p.is_file())
    if not files:
        raise TraceError(f"{path}: the folder holds no part of a trace (*{PART_SUFFIX})")
    return files


def _open_part(path: Path) -> tuple[TraceMeta, _Part]:
    with _parquet_errors(path):
        file = pq.ParquetFile(path, page_checksum_verification=True)
        meta, lookahead = parse_meta(file.schema_arrow, path)
        groups = [
            file.read_row_group(g, columns=["sequence", "epoch"], use_threads=False) for g in range(file.num_row_groups)
        ]
    sequences = [frozenset(_to_numpy(t["sequence"], "sequence", path).tolist()) for t in groups]
    if not any(sequences):
        raise TraceError(f"{path}: the trace holds no steps")
    epochs = np.unique(np.concatenate([_to_numpy(t["epoch"], "epoch", path) for t in groups]))
    return meta, _Part(path, file, lookahead, sequences, epochs)


@contextmanager
def _parquet_errors(path: Path) -> Iterator[None]:
    """Whatever Arrow raises on broken bytes becomes a TraceError that names the file."""
    try:
        yield
    except TraceError:
        raise
    except PermissionError as error:
        raise TraceError(f"{path}: cannot be read: {error.strerror}") from None
    except (pa.ArrowException, OSError, ValueError, KeyError, MemoryError, OverflowError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise TraceError(f"{path}: not a readable Parquet file: {reason[:200]}") from None


def _to_numpy(column: Any, name: str, path: Path) -> npt.NDArray[Any]:
    """A column as [rows], or [rows, n] if it holds lists, all of which must have the same length."""
    array = column.combine_chunks()
    if isinstance(array, pa.ChunkedArray):  # no chunk at all
        array = pa.concat_arrays(array.chunks) if array.num_chunks else pa.array([], type=array.type)
    if array.null_count:
        raise TraceError(f"{path}: column {name!r} holds nulls")
    if not (pa.types.is_nested(array.type)):
        return np.asarray(array.to_numpy(zero_copy_only=False))
    if len(array) == 0:
        return np.empty((0, 0), array.type.value_type.to_pandas_dtype())
    values = array.flatten()
    if values.null_count:
        raise TraceError(f"{path}: column {name!r} holds nulls")
    if not pa.types.is_fixed_size_list(array.type):
        widths = np.diff(array.offsets.to_numpy())
        if bool((widths != widths[0]).any()):
            raise TraceError(f"{path}: column {name!r} has lists of different lengths")
    return np.asarray(values.to_numpy()).reshape(len(array), -1)


def _assemble(
    columns: _Columns, sequence_id: int, meta: TraceMeta, lookahead: tuple[int, ...], path: Path
) -> SequenceTrace:
    """Rows of one sequence, in any order, as arrays by step and lane."""
    where = f"{path}: sequence {sequence_id}"
    lanes = meta.layers * meta.kv_heads
    layer, head = columns["layer"].astype(np.int64), columns["head"].astype(np.int64)
    if bool(((layer < 0) | (layer >= meta.layers) | (head < 0) | (head >= meta.kv_heads)).any()):
        raise TraceError(f"{where}: layer or head out of range (metadata: {meta.layers} x {meta.kv_heads})")
    key = columns["step"].astype(np.int64) * lanes + layer * meta.kv_heads + head
    if bool((np.diff(key) <= 0).any()):
        order = np.argsort(key, kind="stable")
        key, columns = key[order], {name: values[order] for name, values in columns.items()}
    if len(key) % lanes or bool((key.reshape(-1, lanes) % lanes != np.arange(lanes)).any()):
        raise TraceError(f"{where}: a step lacks lanes or has some twice (expected {lanes} rows a step)")
    by_step = {name: values.reshape(-1, lanes, *values.shape[1:]) for name, values in columns.items()}
    for name in ("step", "epoch", "length"):
        if bool((by_step[name] != by_step[name][:, :1]).any()):
            raise TraceError(f"{where}: lanes of one step disagree on {name}")
    steps, lengths = by_step["step"][:, 0], by_step["length"][:, 0]
    if bool((np.diff(steps) <= 0).any()):
        raise TraceError(f"{where}: a step is recorded twice")
    prompt = meta.prompt_tokens.get(sequence_id, int(lengths[0]) - int(steps[0]) - 1)
    return SequenceTrace(
        sequence_id,
        prompt,
        steps,
        lengths,
        by_step["epoch"][:, 0],
        by_step["pages"],
        by_step["scores"],
        by_step["flags"],
        {early: by_step[f"lookahead_{early}"] for early in lookahead},
    )
