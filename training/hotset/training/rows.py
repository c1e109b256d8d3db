"""Training rows on disk: written once in a stream, read back in slices, so that they may exceed memory.

A shard holds the sampled rows of one piece of one sequence as raw little-endian arrays in a file a column. What
stays in memory while shards are written is one sequence of the log and one chunk of rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import lightgbm as lgb
import numpy as np
import numpy.typing as npt

from hotset.predictor.dataset import Rows, sequence_rows
from hotset.predictor.lookahead import UseRows
from hotset.predictor.trace import SequenceTrace
from hotset.protos.features import FEATURES
from hotset.protos.trace import TraceMeta
from hotset.training.errors import TrainingError
from hotset.training.logs import Extent, Log, extent_of, narrow, slice_steps
from hotset.training.split import Piece, Split

Report = Callable[[str, int, int], None]
"""Progress: what is being done, how much of it is done, and how much there is."""

Floats = npt.NDArray[np.float32]
FEATURE_NAMES = [feature.name for feature in FEATURES]
WIDTH = len(FEATURES)
_DTYPES = {"features": "<f4", "target": "<f4", "censored": "|b1", "used": "|b1", "lane": "<i4"}
_BATCH_ROWS = 1 << 15


@dataclass(frozen=True)
class Shard:
    """The rows of one piece; arrays are mapped from disk, not read."""

    path: Path
    rows: int
    width: int = WIDTH

    @property
    def features(self) -> Floats:
        """float32 [rows, width]."""
        return np.memmap(self.path.with_suffix(".features"), "<f4", "r", shape=(self.rows, self.width))

    def column(self, name: str) -> npt.NDArray[Any]:
        """Another column of the rows, such as `target`, [rows], read into memory."""
        return np.fromfile(self.path.with_suffix(f".{name}"), _DTYPES[name], count=self.rows)


class ShardSequence(lgb.Sequence):
    """A shard as LightGBM reads it: single rows to find bin borders, then batches to bin."""

    batch_size = _BATCH_ROWS

    def __init__(self, shard: Shard) -> None:
        self._features = shard.features

    def __len__(self) -> int:
        return len(self._features)

    def __getitem__(self, index: int | slice | list[int]) -> npt.NDArray[np.floating[Any]]:
        # Bin borders are found on doubles only; slices are binned as they are, without a copy.
        if isinstance(index, slice):
            return np.asarray(self._features[index])
        return self._features[index].astype(np.float64)


@dataclass(frozen=True)
class RowSet:
    """Rows for one purpose, over all shards in order."""

    shards: tuple[Shard, ...]
    extents: tuple[Extent, ...]

    @property
    def rows(self) -> int:
        """Rows in all shards."""
        return sum(shard.rows for shard in self.shards)

    def column(self, name: str) -> npt.NDArray[Any]:
        """One column of all shards, [rows]."""
        return np.concatenate([shard.column(name) for shard in self.shards])

    def sample(self, count: int, seed: int) -> tuple[Floats, npt.NDArray[np.int64]]:
        """At most `count` rows in order: features [m, width] and the row numbers [m]."""
        if self.rows <= count:
            chosen = np.arange(self.rows)
        else:
            chosen = np.sort(np.random.default_rng(seed).choice(self.rows, count, replace=False))
        parts, first = [np.empty((0, self.shards[0].width if self.shards else WIDTH), np.float32)], 0
        for shard in self.shards:
            inside = chosen[(chosen >= first) & (chosen < first + shard.rows)] - first
            parts.append(np.asarray(shard.features[inside]))
            first += shard.rows
        return np.concatenate(parts), chosen


@dataclass(frozen=True)
class TrainingRows:
    """What a training works on: rows to learn from, rows held out, and how they were divided and thinned."""

    train: RowSet
    held_out: RowSet
    split: str
    fraction: float


def build_rows(
    logs: Sequence[Log], split: Split, folder: Path, *, max_rows: int, seed: int, report: Report
) -> TrainingRows:
    """Write the rows of every piece of `split` below `folder`, about `max_rows` in all (0: every row).

    The same logs, split and seed give the same bytes. Raises TrainingError if one side would be empty.
    """
    candidates = sum(log.candidates for log in logs)
    fraction = min(1.0, max_rows / candidates) if max_rows and candidates else 1.0
    done: list[tuple[Piece, Shard, Extent]] = []
    pieces_of: dict[tuple[int, int], list[Piece]] = {}
    for piece in split.pieces:
        pieces_of.setdefault((piece.log, piece.sequence), []).append(piece)
    for index, ((log, sequence), pieces) in enumerate(pieces_of.items()):
        report("features", index, len(pieces_of))
        base = folder / f"{index:06d}"
        done += _write_pieces(logs[log], sequence, pieces, base, fraction, seed + index)
    report("features", len(pieces_of), len(pieces_of))
    train, held_out = (
        RowSet(
            tuple(shard for piece, shard, _ in done if piece.held_out is side and shard.rows),
            tuple(extent for piece, _, extent in done if piece.held_out is side),
        )
        for side in (False, True)
    )
    if not train.rows or not held_out.rows:
        short = "held out" if train.rows else "trained on"
        raise TrainingError(f"too little data: no row could be {short} ({split.description}); record more steps")
    return TrainingRows(train, held_out, split.description, fraction)


def _write_pieces(
    log: Log, number: int, pieces: list[Piece], base: Path, fraction: float, seed: int
) -> list[tuple[Piece, Shard, Extent]]:
    sequence = log.reader.read(number)
    whole = extent_of(sequence, log.meta)
    steps = len(sequence.lengths)
    written = []
    for index, piece in enumerate(pieces):
        part = slice_steps(sequence, round(piece.begin * steps), round(piece.end * steps))
        path = base.with_name(f"{base.name}-{index}")
        shard = write_shard(path, _chunks(part, log.meta, fraction, seed))
        written.append((piece, shard, narrow(whole, part)))
    return written


def _chunks(part: SequenceTrace, meta: TraceMeta, fraction: float, seed: int) -> Iterable[Rows]:
    return sequence_rows(part, meta, fraction=fraction, seed=seed) if len(part.lengths) else ()


def write_shard(path: Path, chunks: Iterable[Rows | UseRows], width: int = WIDTH) -> Shard:
    """Write chunks of rows, all of one kind, as they come."""
    rows = 0
    with ExitStack() as stack:
        files: dict[str, BinaryIO] = {}
        for chunk in chunks:
            rows += len(chunk.lane)
            for name, values in chunk._asdict().items():
                if name not in files:
                    files[name] = stack.enter_context(path.with_suffix(f".{name}").open("wb"))
                np.ascontiguousarray(values, dtype=_DTYPES[name]).tofile(files[name])
    return Shard(path, rows, width)
