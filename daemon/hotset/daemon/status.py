"""What a session did, for people and programs: counters, phases, and `status.json` in the log folder."""

from __future__ import annotations

import json
import logging
import statistics
import time
from bisect import bisect_left
from collections import deque
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from hotset.daemon.events import say
from hotset.daemon.instep.layers import LayerTally
from hotset.protos.discovery import write_atomically
from hotset.protos.messages import Advice
from hotset.protos.metrics import PLAN_BUCKETS

FILE_NAME = "status.json"
WRITE_SECONDS = 1.0
PHASES = 128


@dataclass
class SessionCounters:
    """Counts since the daemon attached; metrics.COUNTERS says what each means."""

    steps_received: int = 0
    accesses: int = 0
    hits: int = 0
    prefetched_hits: int = 0
    demand_pages: int = 0
    moved_bytes: int = 0
    step_seconds: float = 0.0
    stall_seconds: float = 0.0
    steps_skipped: int = 0
    gaps: int = 0
    messages_lost: int = 0
    snapshots: int = 0
    plans_sent: int = 0
    plans_dropped: int = 0
    entries_sent: int = 0
    prefetch_sent: int = 0
    plans_refused: int = 0
    plans_applied: int = 0
    entries_applied: int = 0
    steps_logged: int = 0
    log_dropped: int = 0
    log_bytes: int = 0
    guard_takeovers: int = 0
    advice_sent: int = 0
    advice_refused: int = 0
    models_pushed: int = 0
    models_refused: int = 0
    models_withdrawn: int = 0
    lookaheads_sent: int = 0
    lookaheads_refused: int = 0
    lanes_shed: int = 0
    compactions: int = 0
    sequences_refused: int = 0
    trainings: int = 0
    swaps: int = 0
    entries_rejected: dict[str, int] = field(default_factory=dict)


@dataclass
class SessionGauges:
    """What holds now, beyond what SessionStatus knows itself; None: not known. metrics.GAUGES says what each means."""

    waiting: int | None = None
    paused: int | None = None
    hot_slots: int | None = None
    ingest_lag: float | None = None
    observed_share: float = 1.0
    state_bytes: int = 0
    scored_share: float | None = None
    link_rate: float | None = None
    guard_ok: bool | None = None
    ghost_learned: int | None = None
    ghost_heuristic: int | None = None
    drift: float | None = None
    retrain_wanted: bool | None = None
    model_made: float | None = None
    training_running: bool = False
    log_failed: bool = False
    advised_concurrency: int | None = None
    advised_slots: int | None = None
    admit_every: int | None = None
    knee_slots: int | None = None
    expected_stall: float | None = None
    device_model: bool | None = None
    step_precision: float | None = None
    step_coverage: float | None = None


class SessionStatus:
    """Written by the session's thread only; others may read it."""

    def __init__(self, folder: Path, **about: Any) -> None:
        self.path = folder / FILE_NAME
        self.counters = SessionCounters()
        self.gauges = SessionGauges()
        self.about = about
        self.role = "standby"
        self.epoch = 0
        self.sequences = 0
        self.reserve = 0
        self.source = "heuristic"
        self.model_version = ""
        self.reason = ""
        self.advice: dict[str, Any] = {}
        self.in_step: dict[str, Any] = {}
        self.layers: LayerTally | None = None
        self.phases: list[dict[str, Any]] = []
        self.plans_within = [0] * (len(PLAN_BUCKETS) + 1)
        """Plans by the first of PLAN_BUCKETS that they kept; the last kept none."""
        self.plan_seconds_sum = 0.0
        self._plan_seconds: deque[float] = deque(maxlen=512)
        self._written = 0.0

    def phase(self, name: str, **details: Any) -> None:
        """Note a turn of events (attach, heuristic, swap, ...), log it and write the file."""
        if len(self.phases) >= 2 * PHASES:
            # How it began stays, and how it goes now; a guard that changes its mind for weeks must not fill memory.
            del self.phases[PHASES]
        self.phases.append({"phase": name, "epoch": self.epoch, "time": time.time(), **details})
        pid, session = self.about.get("pid"), str(self.about.get("session", ""))[:8]
        say(logging.INFO, name, pid=pid, session=session, epoch=self.epoch, **details)
        self.write()

    def planned(self, seconds: float) -> None:
        """Note how long a plan took from its step's arrival."""
        self._plan_seconds.append(seconds)
        self.plans_within[bisect_left(PLAN_BUCKETS, seconds)] += 1
        self.plan_seconds_sum += seconds

    def advised(self, advice: Advice) -> None:
        """Note advice that was sent; each replaces the one before."""
        self.counters.advice_sent += 1
        self.gauges.advised_concurrency, self.gauges.advised_slots = advice.concurrency, advice.hot_slots

    def expects(self, report: dict[str, Any]) -> None:
        """Note what the advisor thinks; see advice.advisor.Advisor.report."""
        self.advice, gauges = report, self.gauges
        gauges.admit_every, gauges.knee_slots = report.get("admit_every"), report.get("knee_slots")
        stall = report.get("expected_stall_us")
        gauges.expected_stall = None if stall is None else stall / 1e6

    def plan_quantiles(self) -> dict[str, float]:
        """Seconds at the 0.5 and 0.99 quantiles of recent plans; empty before the second plan."""
        recent = list(self._plan_seconds)
        if len(recent) < 2:
            return {}
        cuts = statistics.quantiles(recent, n=100, method="inclusive")
        return {"0.5": cuts[49], "0.99": cuts[98]}

    def as_dict(self) -> dict[str, Any]:
        """The content of `status.json`."""
        return {
            **self.about,
            "role": self.role,
            "epoch": self.epoch,
            "sequences": self.sequences,
            "source": self.source,
            "model_version": self.model_version,
            "reason": self.reason,
            "plan_seconds": self.plan_quantiles(),
            "counters": asdict(self.counters),
            "gauges": asdict(self.gauges),
            "advice": self.advice,
            "in_step": self.in_step,
            "phases": self.phases,
            "updated": time.time(),
        }

    def known(self, gauge: str) -> float:
        """Gauges that follow from what is kept for status.json anyway."""
        return {
            "epoch": self.epoch, "controller": self.role == "controller", "sequences": self.sequences,
            "reserve": self.reserve, "learned": self.source == "learned",
        }[gauge]  # fmt: skip

    @property
    def due(self) -> bool:
        """Whether the file is a second old."""
        return time.monotonic() - self._written >= WRITE_SECONDS

    def write(self) -> None:
        """Replace the file; a full disk is logged and changes nothing else."""
        self._written = time.monotonic()
        try:
            write_atomically(self.path, json.dumps(self.as_dict(), indent=1))
        except OSError as error:
            say(logging.WARNING, "status_failed", path=str(self.path), reason=str(error))
