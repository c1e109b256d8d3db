"""A real run from a daemon's log: every access, who ran in which step, and what each step took."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from hotset.daemon.recorder import PLANNERS
from hotset.predictor.trace import SequenceTrace, open_trace
from hotset.protos.errors import ConfigError
from hotset.protos.messages import AccessFlag
from hotset.protos.trace import TraceMeta

Int64 = npt.NDArray[np.int64]
_FEW = 1 / 16
"""of the steps: a plan's values outlive it by 16"""


@dataclass(frozen=True)
class RealRun:
    """A run's steps [n], ascending. `ran[i]` are indices of the `sequences` that decoded in step i, as they came."""

    meta: TraceMeta
    sequences: list[SequenceTrace]
    epochs: Int64
    ran: list[list[int]]
    told: dict[str, Int64]
    """protos.trace.STEP_COLUMNS, [n]"""
    layers_missed: Int64
    prefetched_hits: Int64

    @property
    def batch(self) -> Int64:
        """Sequences that ran, [n]."""
        return np.array([len(numbers) for numbers in self.ran])

    @property
    def most_open(self) -> int:
        """Sequences that were open at once, paused ones included."""
        first = np.array([s.epochs[0] for s in self.sequences])
        last = np.array([s.epochs[-1] for s in self.sequences])
        return max(int(((first <= epoch) & (last >= epoch)).sum()) for epoch in self.epochs)

    @property
    def planner(self) -> str:
        """Who planned for most steps, as a policy of `hotset simulate`."""
        planned = np.diff(self.told["plans_applied"], prepend=0) > 0
        if planned.mean() < _FEW:
            return "builtin"
        kinds = np.minimum(self.told["planner"][planned], len(PLANNERS) - 1)
        return PLANNERS[int(np.bincount(kinds).argmax())] or "builtin"


def read_run(path: Path) -> RealRun:
    """Read the log at `path`, or the one below it. Raises ConfigError if it cannot be simulated, else TraceError."""
    log = find_log(path)
    reader = open_trace(log)
    told = reader.steps()
    if not len(told["epoch"]) or not reader.meta.slots:
        raise ConfigError(f"{log}: does not say what its steps took; a log of `hotset daemon` does")
    sequences = list(reader)
    for sequence in sequences:
        if bool((np.diff(sequence.steps) != 1).any()):
            raise ConfigError(f"{log}: steps of sequence {sequence.sequence} are missing; a whole log is needed")
    sequences.sort(key=lambda s: (int(s.epochs[0]), s.sequence))
    epochs = reader.epochs
    unknown = np.setdiff1d(epochs, told["epoch"])
    if len(unknown):
        raise ConfigError(f"{log}: does not say what step {unknown[0]} took, nor {len(unknown) - 1} others")
    at = np.searchsorted(told["epoch"], epochs)
    ran: list[list[int]] = [[] for _ in epochs]
    for number, sequence in enumerate(sequences):
        for place in np.searchsorted(epochs, sequence.epochs):
            ran[place].append(number)
    missed, prefetched = _used(reader.meta, sequences, epochs)
    return RealRun(
        reader.meta, sequences, epochs, ran, {name: values[at] for name, values in told.items()}, missed, prefetched
    )


def find_log(path: Path) -> Path:
    """A trace log itself, or the only folder `trace` below. Raises ConfigError if there is none, or several."""
    if path.is_file() or any(path.glob("part-*.parquet")):
        return path
    found = sorted(p for p in path.rglob("trace") if p.is_dir())
    if len(found) != 1:
        what = "no trace log" if not found else f"{len(found)} trace logs, as {found[0]} and {found[1]}"
        raise ConfigError(f"{path}: {what} below it; give the folder of one session of `hotset daemon`")
    return found[0]


def _used(meta: TraceMeta, sequences: list[SequenceTrace], epochs: Int64) -> tuple[Int64, Int64]:
    """Layers that missed, and hits thanks to a prefetch, of every step [n]."""
    missed = np.zeros((len(epochs), meta.layers), np.bool_)
    prefetched = np.zeros(len(epochs), np.int64)
    for sequence in sequences:
        at = np.searchsorted(epochs, sequence.epochs)
        misses = sequence.selected & ((sequence.flags & AccessFlag.HIT) == 0)
        missed[at] |= misses.reshape(len(at), meta.layers, -1).any(-1)
        prefetched[at] += np.count_nonzero(sequence.flags & AccessFlag.PREFETCHED, axis=(1, 2))
    return missed.sum(1), prefetched
