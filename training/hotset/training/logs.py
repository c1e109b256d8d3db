"""Trace logs as training material: which sequences there are, how large they are, and what identifies them."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]

from hotset.predictor.trace import SequenceTrace, TraceReader, open_trace
from hotset.protos.errors import TraceError
from hotset.protos.trace import TraceMeta
from hotset.training.errors import TrainingError

_HASH_CHUNK = 1 << 22
_EXTENT = re.compile(r"([0-9a-f+]+):(\d+)-(\d+)")


@dataclass(frozen=True)
class Log:
    """One trace log: its reader, SHA-256 of its files, and rows (a row is one lane at one step)."""

    path: Path
    reader: TraceReader
    fingerprint: str
    rows: int

    @property
    def meta(self) -> TraceMeta:
        """What the log was recorded from."""
        return self.reader.meta

    @property
    def candidates(self) -> int:
        """Upper bound of the training rows that the log can give."""
        return self.rows * self.meta.candidates


def open_logs(paths: Sequence[Path]) -> list[Log]:
    """Open logs in the order given; a log whose bytes were already given is left out.

    Raises TraceError for a path that is no trace log, TrainingError if there is none or they differ in what
    the features depend on.
    """
    logs: list[Log] = []
    for path in paths:
        fingerprint = log_fingerprint(path)
        if all(fingerprint != known.fingerprint for known in logs):
            logs.append(Log(path, open_trace(path), fingerprint, _count_rows(path)))
    if not logs:
        raise TrainingError("no trace log given; name at least one file or folder of Parquet parts")
    return logs


def log_files(path: Path) -> list[Path]:
    """The Parquet files of a log: the file itself, or the parts of a folder in name order."""
    if not path.exists():
        raise TraceError(f"{path}: no such file or folder")
    files = [path] if path.is_file() else sorted(path.glob("*.parquet"))
    if not files:
        raise TraceError(f"{path}: holds no Parquet part; is it the folder of a trace log?")
    return files


def log_fingerprint(path: Path) -> str:
    """SHA-256 over the contents of a log's files, in name order; 64 hexadecimal digits."""
    digest = hashlib.sha256()
    for file in log_files(path):
        with file.open("rb") as stream:
            while chunk := stream.read(_HASH_CHUNK):
                digest.update(chunk)
    return digest.hexdigest()


def data_fingerprint(logs: Sequence[Log]) -> str:
    """One SHA-256 for all the logs of a training, independent of their order."""
    return hashlib.sha256("".join(sorted(log.fingerprint for log in logs)).encode()).hexdigest()


def _count_rows(path: Path) -> int:
    try:
        return sum(pq.read_metadata(file).num_rows for file in log_files(path))
    except (pa.ArrowException, OSError) as error:
        raise TraceError(f"{path}: not a readable Parquet file ({error})") from error


def slice_steps(sequence: SequenceTrace, start: int, stop: int) -> SequenceTrace:
    """Steps `start` to `stop` (exclusive) of a sequence, as if only they had been recorded.

    Labels computed on the slice are censored at its end, so nothing beyond `stop` leaks into it.
    """
    cut = slice(start, stop)
    return replace(
        sequence,
        steps=sequence.steps[cut],
        lengths=sequence.lengths[cut],
        epochs=sequence.epochs[cut],
        pages=sequence.pages[cut],
        scores=sequence.scores[cut],
        flags=sequence.flags[cut],
        lookahead={distance: pages[cut] for distance, pages in sequence.lookahead.items()},
    )


@dataclass(frozen=True)
class Extent:
    """A stretch of one sequence by token position, `[start, stop)`, and the keys that identify the sequence.

    Two extents overlap if they share a key and a position. Sequences get two keys: the content of their first
    recorded step (found again in a copy or another import of the log), and session and sequence id (found
    again when a log has grown at either end).
    """

    keys: tuple[str, ...]
    start: int
    stop: int

    def overlaps(self, other: Extent) -> bool:
        """True if both may hold the same decode step."""
        shared = set(self.keys) & set(other.keys)
        return bool(shared) and self.start < other.stop and other.start < self.stop

    def encode(self) -> str:
        """`KEY+KEY:START-STOP`, as model cards hold it."""
        return f"{'+'.join(self.keys)}:{self.start}-{self.stop}"

    @classmethod
    def decode(cls, text: str) -> Extent | None:
        """The inverse of `encode`; None for another kind of fingerprint."""
        found = _EXTENT.fullmatch(text)
        return None if found is None else cls(tuple(found[1].split("+")), int(found[2]), int(found[3]))


def extent_of(sequence: SequenceTrace, meta: TraceMeta) -> Extent:
    """What of which sequence a trace holds; take it before slicing, then narrow it with `narrow`."""
    content = hashlib.sha256(f"{meta.model}/{meta.page_size}/{meta.selected}/{sequence.lengths[:1]}".encode())
    for array in (sequence.pages[:1], sequence.scores[:1], sequence.selected[:1]):
        content.update(np.ascontiguousarray(array).tobytes())
    keys = [content.hexdigest()[:24]]
    if meta.session:
        keys.append(hashlib.sha256(f"{meta.session}/{sequence.sequence}".encode()).hexdigest()[:24])
    return narrow(Extent(tuple(keys), 0, 0), sequence)


def narrow(extent: Extent, sequence: SequenceTrace) -> Extent:
    """The extent of a slice of the sequence that `extent` identifies."""
    if len(sequence.lengths) == 0:
        return replace(extent, start=0, stop=0)
    return replace(extent, start=int(sequence.lengths[0]), stop=int(sequence.lengths[-1]) + 1)
