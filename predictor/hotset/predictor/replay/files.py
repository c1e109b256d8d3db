"""Replay trace logs by path: lane pools one sequence at a time, so that logs may be larger than memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from hotset.predictor.replay.batch import Batch, Member, make_batch, same_geometry
from hotset.predictor.replay.link import LinkModel
from hotset.predictor.replay.run import (
    BOUNDS,
    Pool,
    ReplayResult,
    Timed,
    combine,
    count,
    report,
    slots_per_lane,
)
from hotset.predictor.trace.reader import TraceReader, open_trace, read_trace

if TYPE_CHECKING:
    from hotset.predictor.model import ReuseModel

_Runs = dict[tuple[str, float], Timed]


class _Task(NamedTuple):
    """What one process counts: some runs over one sequence of one log, or over all logs as one batch."""

    paths: tuple[Path, ...]
    sequence: int | None
    runs: tuple[tuple[str, float], ...]
    pool: Pool
    model: Path | None
    seed: int


def replay_files(
    paths: Sequence[Path],
    policies: Sequence[str],
    *,
    ratios: Sequence[float],
    pool: Pool = "lane",
    model: Path | None = None,
    link: LinkModel | None = None,
    seed: int = 0,
    jobs: int = 1,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[ReplayResult]:
    """Results by ratio, then policy. `model` is the folder of a saved ReuseModel, for the learned policies.

    With lane pools the work is cut by sequence, with the shared pool by policy and ratio; `jobs` processes share
    it. `progress(done, total)` is called after each piece. Raises TraceError and PolicyError as `replay` does.
    """
    readers = [open_trace(path) for path in paths]
    same_geometry([reader.meta for reader in readers])
    for ratio in ratios:
        slots_per_lane(readers[0].meta, ratio)
    runs = [(name, ratio) for ratio in ratios for name in dict.fromkeys([*policies, *BOUNDS])]
    tasks = _tasks(readers, runs, pool, model, seed)
    parts: dict[tuple[str, float], list[Timed]] = {run: [] for run in runs}
    with _mapper(min(jobs, len(tasks))) as mapper:
        for done, found in enumerate(mapper(_run_task, tasks), start=1):
            for run, timed in found.items():
                parts[run].append(timed)
            progress(done, len(tasks))
    meta, results = readers[0].meta, []
    for ratio in ratios:
        timed = {name: combine(found) for (name, at), found in parts.items() if at == ratio}
        results += [report(name, timed, meta, ratio, pool, link or LinkModel()) for name in policies]
    return results


def _tasks(
    readers: list[TraceReader], runs: list[tuple[str, float]], pool: Pool, model: Path | None, seed: int
) -> list[_Task]:
    if pool == "shared":
        paths = tuple(reader.path for reader in readers)
        return [_Task(paths, None, (run,), pool, model, seed) for run in runs]
    return [
        _Task((reader.path,), sequence, tuple(runs), pool, model, seed)
        for reader in readers
        for sequence in reader.sequence_ids
    ]


@contextmanager
def _mapper(jobs: int) -> Iterator[Callable[..., Any]]:
    """`map`, in this process or over `jobs` fresh ones (forking would copy Arrow's threads half-way)."""
    if jobs <= 1:
        yield map
        return
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        yield pool.map


def _run_task(task: _Task) -> _Runs:
    batch, model = _load_batch(task), _load_model(task.model)
    return {
        (name, ratio): count(batch, name, ratio=ratio, pool=task.pool, model=model, seed=task.seed)
        for name, ratio in task.runs
    }


def _load_batch(task: _Task) -> Batch:
    if task.sequence is None:
        return make_batch([read_trace(path) for path in task.paths])
    reader = open_trace(task.paths[0])
    trace = reader.read(task.sequence)
    member = Member.make(trace, reader.meta, recorded=reader.epochs)
    return Batch(reader.meta, [member])


def _load_model(path: Path | None) -> ReuseModel | None:
    if path is None:
        return None
    from hotset.predictor.model import ReuseModel

    return ReuseModel.load(path)
