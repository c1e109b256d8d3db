"""One simulation from its options: read the traces, tile them, put a daemon beside the engine, and report."""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from hotset.daemon.config import DaemonConfig
from hotset.daemon.planner import Scorer
from hotset.daemon.scorers import LearnedScorer
from hotset.ops.simulate.daemon import HEURISTIC_NS, LEARNED_NS, CostedHeuristic, CostedModel, Stopwatch
from hotset.ops.simulate.engine import Engine
from hotset.ops.simulate.inside import in_step_of
from hotset.ops.simulate.node import Memory, Node
from hotset.ops.simulate.tally import Tally
from hotset.ops.simulate.wire import LockstepWire, Wire, daemon_config
from hotset.ops.simulate.workload import Workload, tile
from hotset.predictor.replay.batch import same_geometry
from hotset.predictor.trace import SequenceTrace, open_trace
from hotset.protos.errors import ConfigError
from hotset.protos.messages import Advice
from hotset.protos.trace import TraceMeta

POLICIES = ("builtin", "heuristic", "learned", "learned-device")
MODEL_POLICIES = ("learned", "learned-device")


@dataclass(frozen=True)
class Load:
    """How the recorded sequences are tiled; see workload.tile."""

    sequences: int = 16
    arrivals: str = "at-once"
    tokens: int | None = None
    shared_prefix: float = 0.0
    seed: int = 0


@dataclass(frozen=True)
class Job:
    """One simulation. `policy`: builtin runs alone, the others beside a daemon; `controller`: obey its advice.

    `learned-device` is `learned`, and the engine decides inside its steps as well, by the model that the daemon pushes.

    With a `log_dir` there is a daemon in any case, and it logs there.
    `start` sequences run at once until there is advice, as if the daemon had come later; by default it is there from
    the beginning.
    """

    traces: tuple[Path, ...]
    policy: str = "builtin"
    model: Path | None = None
    controller: bool = False
    start: int | None = None
    load: Load = field(default_factory=Load)
    node: Node = field(default_factory=Node)
    log_dir: Path | None = None


@lru_cache(maxsize=4)
def read_recorded(paths: tuple[Path, ...]) -> tuple[TraceMeta, list[SequenceTrace]]:
    """All sequences of all traces, which must share a geometry. Raises TraceError or PolicyError."""
    readers = [open_trace(path) for path in paths]
    same_geometry([reader.meta for reader in readers])
    widest = max(reader.meta.candidates for reader in readers)
    return readers[0].meta.model_copy(update={"candidates": widest}), [s for reader in readers for s in reader]


def workload_of(job: Job) -> Workload:
    """The load of a job, from its traces."""
    meta, recorded = read_recorded(job.traces)
    load = job.load
    return tile(
        meta, recorded, sequences=load.sequences, arrivals=load.arrivals, tokens=load.tokens,
        shared_prefix=load.shared_prefix, seed=load.seed,
    )  # fmt: skip


def simulate(job: Job, workload: Workload | None = None) -> tuple[Tally, dict[str, Any]]:
    """Run a job; returns its counts and its report. Raises ConfigError for what cannot run."""
    job, workload = _standing(job, workload or workload_of(job))
    start = time.perf_counter()
    with wire_of(job, workload) as wire:
        engine = Engine(workload, job.node, wire, decides=job.policy == "learned-device")
        engine.admission.advise(Advice(number=0, concurrency=job.start))
        tally = engine.run()
    memory = engine.memory
    about = {
        "policy": job.policy,
        "controller": job.controller,
        "concurrency": memory.max_sequences,
        "slots": memory.most_slots,
        "hbm_gib": memory.hbm_bytes / (1 << 30),
        "sequence_mib": memory.sequence_bytes / (1 << 20),
        **_whole(memory, job.node),
        "link_gbps": job.node.link_gbps,
        "link_latency_us": job.node.link_latency_us,
        "seed": job.load.seed,
        "device_model": engine.inside.version,
        "held_pages": engine.inside.held,
        "late_pages": engine.inside.late,
    }
    return tally, {**about, **tally.report(), "wall_seconds": time.perf_counter() - start}


def _standing(job: Job, workload: Workload) -> tuple[Job, Workload]:
    """Both as the recorded lanes see them, where they stand for a larger model's."""
    meta, node = job.node.stand_for(workload.meta)
    return replace(job, node=node), replace(workload, meta=meta)


def _whole(memory: Memory, node: Node) -> dict[str, Any]:
    """What the same memory would do if all KV were in it; nothing if it was made up of hot slots."""
    if node.hbm_gib is None:
        return {"whole_sequences": None, "whole_tokens_per_second": None}
    fit = memory.whole_sequences
    return {"whole_sequences": fit, "whole_tokens_per_second": 1e6 * fit / node.compute_us(fit) if fit else 0.0}


@contextmanager
def wire_of(job: Job, workload: Workload) -> Iterator[Wire]:
    """Who steers the job's engine: nobody, or a daemon. Raises ConfigError for an unknown policy."""
    if job.policy not in POLICIES:
        raise ConfigError(f"unknown policy {job.policy!r}; choose one of {', '.join(POLICIES)}")
    if job.policy == "builtin" and not job.controller and job.log_dir is None:
        yield Wire()
        return
    with _log_dir(job) as folder, _quiet():
        wire = _daemon(job, workload, folder)
        try:
            yield wire
        finally:
            wire.close()


def _daemon(job: Job, workload: Workload, folder: Path) -> LockstepWire:
    memory = Memory(job.node, workload)
    options: dict[str, Any] = {"link_gbps": job.node.link_gbps, "record": job.log_dir is not None}
    # A prefetch costs the simulated node nothing but its bytes.
    options["rules"] = {"flight_us": 0.0}
    if job.policy == "builtin":
        options["plan_every"] = 0
    if "advice" in DaemonConfig.model_fields:
        options["advice"] = {"enabled": job.controller}
    in_step = in_step_of(workload) if job.policy == "learned-device" else None
    scorer, watch = _scorer(job)
    return LockstepWire(
        workload.meta.model,
        memory.geometry(workload),
        memory.capacity(),
        builtin=job.node.builtin,
        scorer=scorer,
        config=daemon_config(folder, **options),
        plan_delay_us=job.node.plan_delay_us,
        watch=watch,
        in_step=in_step,
        running=job.start or 0,
    )


def _scorer(job: Job) -> tuple[Scorer, Stopwatch]:
    learned = job.policy in MODEL_POLICIES
    given, usual = job.node.score_ns, LEARNED_NS if learned else HEURISTIC_NS
    watch = Stopwatch(usual if given is None else given)
    if not learned:
        return CostedHeuristic(watch), watch
    if job.model is None:
        raise ConfigError(f"policy {job.policy} needs a model; train one, or name it with --model")
    scorer = LearnedScorer.load(job.model)
    if job.policy == "learned-device" and not scorer.model.pushed:
        raise ConfigError(
            f"{job.model}: this model has no heads for the device; train one on a log that recorded a lookahead"
        )
    return CostedModel(scorer, watch), watch


@contextmanager
def _log_dir(job: Job) -> Iterator[Path]:
    """Where the daemon keeps its status; thrown away unless the job names a place."""
    if job.log_dir is not None:
        yield job.log_dir
        return
    with tempfile.TemporaryDirectory(prefix="hotset-simulate-") as folder:
        yield Path(folder)


@contextmanager
def _quiet() -> Iterator[None]:
    """The daemon's own log is for daemons that run."""
    logger = logging.getLogger("hotset.daemon")
    before = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(before)
