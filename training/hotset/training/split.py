"""Which part of which sequence is trained on and which is held out: never rows of one stretch in both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.model_selection import GroupShuffleSplit  # type: ignore[import-untyped]

from hotset.training.errors import TrainingError
from hotset.training.logs import Log

SPLITS = ("auto", "sequence", "time")
HELD_OUT = 0.2


@dataclass(frozen=True)
class Piece:
    """Steps `[begin, end)` of one sequence, as fractions of its steps, and what they are for."""

    log: int
    sequence: int
    begin: float
    end: float
    held_out: bool


@dataclass(frozen=True)
class Split:
    """How the data was divided, in words for the card, and the pieces in reading order."""

    description: str
    pieces: tuple[Piece, ...]


def split_logs(logs: Sequence[Log], *, kind: str = "auto", held_out: float = HELD_OUT, seed: int) -> Split:
    """Divide logs by sequence (`auto`: if there are two or more), or cut every sequence in time.

    Cut in time, the head of a sequence is trained on and its tail held out, which serves while sequences are
    few and still growing. Raises TrainingError if there is none, or one and it should be split by sequence.
    """
    members = [(index, sequence) for index, log in enumerate(logs) for sequence in log.reader.sequence_ids]
    if not members:
        raise TrainingError("the logs hold no sequence; record some decode steps first")
    by_sequence = kind == "sequence" or (kind == "auto" and len(members) > 1)
    return _by_sequence(members, held_out, seed) if by_sequence else _by_time(members, held_out)


def _by_sequence(members: list[tuple[int, int]], held_out: float, seed: int) -> Split:
    if len(members) < 2:
        raise TrainingError("one sequence cannot be split by sequence; use --split time or give more logs")
    groups = np.arange(len(members))
    splitter = GroupShuffleSplit(n_splits=1, test_size=held_out, random_state=seed)
    _, held = next(splitter.split(groups, groups=groups))
    chosen = set(held.tolist())
    pieces = tuple(Piece(*member, 0.0, 1.0, index in chosen) for index, member in enumerate(members))
    text = f"by sequence: {len(members) - len(chosen)} trained on, {len(chosen)} held out"
    return Split(text, pieces)


def _by_time(members: list[tuple[int, int]], held_out: float) -> Split:
    cut = 1.0 - held_out
    heads = (Piece(*member, 0.0, cut, False) for member in members)
    tails = (Piece(*member, cut, 1.0, True) for member in members)
    pieces = tuple(piece for pair in zip(heads, tails, strict=True) for piece in pair)
    few = "the only sequence" if len(members) == 1 else f"each of {len(members)} sequences"
    return Split(f"by time: the last {held_out:.0%} of the steps of {few} held out", pieces)
