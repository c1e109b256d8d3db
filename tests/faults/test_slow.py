"""Consumers that cannot or will not keep up: they cost the decode process nothing but a bounded queue."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from logs import check_logs
from sandbox import WAIT, Hotset, planned, until
from vitals import vitals
from witness import Witness

from hotset.daemon.connection import Connection
from hotset.predictor.trace import Trace
from hotset.protos.messages import Hello, Plan, SnapshotRequest, Step
from hotset.protos.transport import ZmqClient

pytestmark = pytest.mark.e2e
GROWTH = 24 << 20
"""Bytes that the queues of a few peers and a changing log may take."""


def test_observers_that_never_read(
    hotset: Hotset, trace: Path, recorded: Trace, witness: Callable[[str], Witness]
) -> None:
    """Their queues fill and overflow; the engine drops and counts, and the daemon beside them steers as before."""
    daemon = hotset.daemon()
    engine = hotset.start("play", trace, "--speed", 200, "--times", 200, "--check")
    endpoint = hotset.endpoint(engine)
    ear = witness(endpoint)
    ear.hears(plans=20)
    before = vitals(engine.pid).memory
    deaf = [Connection(ZmqClient(endpoint, high_water_mark=1), "deaf") for _ in range(3)]
    for one in deaf:
        one.attach("observer")
    until(lambda: ear.dropped > 300)
    ear.hears(steps=100, plans=50)
    assert vitals(engine.pid).memory < before + GROWTH
    (status,) = hotset.statuses()
    assert (status["role"], status["counters"]["messages_lost"]) == ("controller", 0)
    for one in deaf:
        one.close()
    daemon.terminate()
    assert daemon.wait(30) == 0
    assert check_logs(hotset, recorded) == 1


def test_plans_that_come_late_change_nothing(hotset: Hotset, trace: Path) -> None:
    """A controller that plans for steps long gone: every entry is refused, every miss is as without a controller."""
    alone, _ = hotset.start("play", trace, "--speed", 0, "--times", 3).communicate(timeout=WAIT)
    engine = hotset.start("play", trace, "--speed", 150, "--times", 3, "--check")
    late = LateController(hotset.endpoint(engine))
    played, _ = engine.communicate(timeout=WAIT)
    late.end.set()
    late.join(WAIT)
    assert late.plans > 100
    assert late.reasons.get("late", 0) > 1000
    found, expected = json.loads(played), json.loads(alone)
    assert found["entries"] == 0
    for count in ("steps", "accesses", "demand_misses", "prefetched_pages"):
        assert found[count] == expected[count], count


def test_an_engine_far_faster_than_its_daemon(hotset: Hotset, trace: Path, recorded: Trace) -> None:
    """Steps are dropped and counted; the daemon plans all the same, keeps the lease and its memory."""
    daemon = hotset.daemon("--flush-seconds", 0.5)
    # More steps than any machine plays before a daemon that may have to compile has planned.
    engine = hotset.start("play", trace, "--speed", 0, "--times", 1000)
    until(lambda: hotset.statuses() and planned(hotset.statuses()[0]) > 10)
    before, enough = vitals(daemon.pid).memory, planned(hotset.statuses()[0]) + 30
    until(lambda: planned(hotset.statuses()[0]) > enough)
    engine.kill()
    until(lambda: hotset.statuses()[0]["role"] == "ended")
    assert vitals(daemon.pid).memory < before + 4 * GROWTH
    (status,) = hotset.statuses()
    assert status["reason"] == "the decode process is gone"
    assert "lease_lost" not in [phase["phase"] for phase in status["phases"]]
    assert check_logs(hotset, recorded) == 1
    assert daemon.poll() is None


class LateController(threading.Thread):
    """Answers each step with values and prefetches whose deadline has passed."""

    def __init__(self, endpoint: str) -> None:
        super().__init__(daemon=True)
        self.end = threading.Event()
        self.plans = 0
        self.reasons: dict[str, int] = {}
        self._connection = Connection(ZmqClient(endpoint), "late")
        self.start()

    def run(self) -> None:
        """Plan until told to end."""
        self._connection.attach("controller")
        while not self.end.is_set():
            received = self._connection.receive(0.05)
            message = received.message if received is not None else None
            if isinstance(message, Hello):
                self._connection.send(SnapshotRequest())
            elif isinstance(message, Step) and message.epoch > 50:
                self._plan(message)
        self._connection.close()

    def _plan(self, step: Step) -> None:
        self.plans += 1
        self.reasons = step.stats.entries_rejected
        pages: Any = np.arange(40, dtype="<i4")
        self._connection.send(
            Plan(
                number=self.plans, epoch=step.epoch - 40, deadline=step.epoch - 30, source="heuristic", pages=pages,
                generations=np.zeros(40, "<u4"), values=np.linspace(0, 20, 40).astype("<f4"), prefetch=pages,
                prefetch_generations=np.zeros(40, "<u4"),
            )
        )  # fmt: skip
        time.sleep(0.001)
