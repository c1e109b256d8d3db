"""What a session did, for people and programs: counters, phases, and `status.json` in the log folder."""

from __future__ import annotations

import json
import logging
import statistics
import time
from collections import deque
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from hotset.daemon.events import say
from hotset.protos.discovery import write_atomically

FILE_NAME = "status.json"
WRITE_SECONDS = 1.0


@dataclass
class SessionCounters:
    """Counts since the daemon attached; metrics.COUNTERS says what each means."""

    steps_received: int = 0
    accesses: int = 0
    hits: int = 0
    prefetched_hits: int = 0
    demand_pages: int = 0
    moved_bytes: int = 0
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
    trainings: int = 0
    swaps: int = 0
    entries_rejected: dict[str, int] = field(default_factory=dict)


class SessionStatus:
    """Written by the session's thread only; others may read it."""

    def __init__(self, folder: Path, **about: Any) -> None:
        self.path = folder / FILE_NAME
        self.counters = SessionCounters()
        self.about = about
        self.role = "standby"
        self.epoch = 0
        self.sequences = 0
        self.reserve = 0
        self.source = "heuristic"
        self.model_version = ""
        self.reason = ""
        self.phases: list[dict[str, Any]] = []
        self._plan_seconds: deque[float] = deque(maxlen=512)
        self._written = 0.0

    def phase(self, name: str, **details: Any) -> None:
        """Note a turn of events (attach, heuristic, swap, ...), log it and write the file."""
        self.phases.append({"phase": name, "epoch": self.epoch, "time": time.time(), **details})
        pid, session = self.about.get("pid"), str(self.about.get("session", ""))[:8]
        say(logging.INFO, name, pid=pid, session=session, epoch=self.epoch, **details)
        self.write()

    def planned(self, seconds: float) -> None:
        """Note how long a plan took from its step's arrival."""
        self._plan_seconds.append(seconds)

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
            "phases": self.phases,
            "updated": time.time(),
        }

    def write_if_due(self) -> None:
        """Write the file once a second at most."""
        if time.monotonic() - self._written >= WRITE_SECONDS:
            self.write()

    def write(self) -> None:
        """Replace the file; a full disk is logged and changes nothing else."""
        self._written = time.monotonic()
        try:
            write_atomically(self.path, json.dumps(self.as_dict(), indent=1))
        except OSError as error:
            say(logging.WARNING, "status_failed", path=str(self.path), reason=str(error))
