"""The model against a real decode: what the simulator says of the steps in a daemon's log, beside what they took.

Who ran in a step is taken from the log, and every third step calibrates the machine (calibrate.py), or all steps of
another run on it. Misses, movement, stall and throughput of all other steps are predicted.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hotset.ops.simulate.calibrate import Machine, machine_of
from hotset.ops.simulate.engine import Engine
from hotset.ops.simulate.node import Node
from hotset.ops.simulate.recorded import RealRun, read_run
from hotset.ops.simulate.run import Job, wire_of
from hotset.ops.simulate.tally import Tally
from hotset.ops.simulate.wire import Wire
from hotset.ops.simulate.workload import Workload, tile
from hotset.protos.errors import CapacityError, ConfigError

Bool = npt.NDArray[np.bool_]

LEAST_STEPS = 12
CALIBRATES_EVERY = 3


class Replayed(Engine):
    """Plays a real run's sequences in the steps in which they ran, with the slots that they had."""

    def __init__(self, real: RealRun, workload: Workload, node: Node, wire: Wire) -> None:
        super().__init__(workload, node, wire)
        self._real, self._at = real, 0
        self._requests = workload.requests

    def step(self) -> bool:
        """See Engine."""
        if self._at == len(self._real.epochs):
            return False
        self.epoch = int(self._real.epochs[self._at])
        self._ran = list(self._real.ran[self._at])
        for number in self._ran:
            if number not in self.tables.open:
                self._open(self._requests[number])
        self._follow(int(self._real.told["hot_slots"][self._at]))
        batch = [self.tables.open[number] for number in self._ran]
        self._decode(batch)
        for playing in [p for p in batch if p.over]:
            self._close(playing)
        self._at += 1
        return True

    def _follow(self, hot_slots: int) -> None:
        """Give the hot set what it had beside the tails of those that ran."""
        pinned = len(self._ran) * self.pool.lanes
        slots = min(hot_slots + pinned, self.memory.most_slots) if hot_slots else self.memory.most_slots
        try:
            if slots != self.pool.limit:
                self.pool.resize(slots)
        except CapacityError:
            pass  # What is in flight is in the way; the next step tries again.


def compare(
    path: Path, *, policy: str | None = None, model: Callable[[], Path | None] = lambda: None,
    link_gbps: float | None = None, calibrate: Path | None = None, options: dict[str, Any] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """A real run beside its simulation; docs/simulate.md explains the report.

    `policy` is the run's own if None, `link_gbps` is measured in the run if None; `model` is asked for where the policy
    is `learned`; `calibrate` is the log of another run with the same machine and link; `options` are more of Node.
    Raises ConfigError if the log cannot be simulated, or TraceError.
    """
    if policy == "learned-device":
        raise ConfigError("a real run is compared without what it decides inside steps; give another --policy")
    real = read_run(path)
    steps = len(real.epochs)
    if steps < LEAST_STEPS:
        raise ConfigError(f"{path}: {steps} steps are too few to calibrate and to compare; {LEAST_STEPS} are the least")
    calibrates = np.arange(steps) % CALIBRATES_EVERY == 0
    if calibrate is None:
        calibrated, machine = int(calibrates.sum()), _machine(real, calibrates, link_gbps)
    else:
        calibrates[:], other = False, read_run(calibrate)
        calibrated, machine = len(other.epochs), _machine(other, np.ones(len(other.epochs), np.bool_), link_gbps)
    policy, node = policy or real.planner, _node(real, machine, options or {})
    tally = _play(real, Job((path,), policy=policy, model=model() if policy == "learned" else None, node=node))
    measured, simulated = _measured(real, ~calibrates), _simulated(tally, ~calibrates)
    return {
        "policy": policy, "builtin": node.builtin, "slots": node.slots, "steps": int((~calibrates).sum()),
        "calibrated": calibrated, "link_measured": link_gbps is None, **machine._asdict(),
        "figures": {
            name: {"real": value, "simulated": simulated[name], "error": simulated[name] / value - 1 if value else None}
            for name, value in measured.items()
        },
    }  # fmt: skip


def _node(real: RealRun, machine: Machine, options: dict[str, Any]) -> Node:
    return Node.checked(
        **{"builtin": real.meta.builtin, **options}, concurrency=real.most_open, slots=real.meta.slots,
        step_us=machine.step_us, sequence_us=machine.sequence_us, link_latency_us=machine.batch_us,
        link_gbps=real.meta.page_bytes / (max(machine.page_us, 1e-6) * 1e3),
    )  # fmt: skip


def _play(real: RealRun, job: Job) -> Tally:
    workload = tile(real.meta, real.sequences, sequences=len(real.sequences))
    with wire_of(job, workload) as wire:
        return Replayed(real, workload, job.node, wire).run()


def _machine(real: RealRun, steps: Bool, link_gbps: float | None) -> Machine:
    told = {name: values[steps].astype(np.float64) for name, values in real.told.items()}
    return machine_of(
        told["step_us"] - told["stall_us"], real.batch[steps].astype(np.float64), told["stall_us"],
        real.layers_missed[steps].astype(np.float64), told["demand_pages"],
        None if link_gbps is None else real.meta.page_bytes / (link_gbps * 1e3),
    )  # fmt: skip


def _measured(real: RealRun, steps: Bool) -> dict[str, float]:
    told = {name: values[steps] for name, values in real.told.items()}
    return _figures(
        told["demand_pages"], real.prefetched_hits[steps], told["moved_bytes"], told["stall_us"], told["step_us"],
        real.batch[steps],
    )  # fmt: skip


def _simulated(tally: Tally, steps: Bool) -> dict[str, float]:
    def of(name: str) -> Any:
        return np.array([getattr(record, name) for record in tally.steps])[steps]

    return _figures(
        of("demand_pages"), of("prefetched_hits"), of("moved_pages") * tally.page_bytes, of("stall_us"), of("step_us"),
        of("running"),
    )  # fmt: skip


def _figures(misses: Any, prefetched: Any, moved: Any, stall_us: Any, step_us: Any, ran: Any) -> dict[str, float]:
    """Sums over the steps, medians of stall and step in ms, and tokens over the steps' time."""
    return {
        "demand_misses": int(misses.sum()),
        "prefetched_hits": int(prefetched.sum()),
        "moved_bytes": int(moved.sum()),
        "stall_seconds": float(stall_us.sum()) / 1e6,
        "stall_ms": float(np.median(stall_us)) / 1e3,
        "step_ms": float(np.median(step_us)) / 1e3,
        "tokens_per_second": float(ran.sum() / step_us.sum() * 1e6),
    }
