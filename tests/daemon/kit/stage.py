"""Daemons' sessions in front of a link in this process, behind which a trace is played."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hotset.daemon.config import DaemonConfig
from hotset.daemon.connection import Connection
from hotset.daemon.learners import ALONE, Learners
from hotset.daemon.planner import Scorer
from hotset.daemon.scorers import HeuristicScorer
from hotset.daemon.session import Session
from hotset.ops.play import InsideStep, TracePlayer, geometry_of
from hotset.predictor.trace import SequenceTrace
from hotset.protos.messages import InStep
from hotset.protos.trace import TraceMeta
from hotset.protos.transport import MemoryServer
from hotset.runtime.link import ControlLink, LinkLimits

WAIT = 60.0


def until(condition: Callable[[], bool]) -> None:
    """Wait for it."""
    end = time.monotonic() + WAIT
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.002)


def leads(session: Session) -> bool:
    """Whether it holds the lease."""
    return session.sidecar is not None and session.sidecar.leads


class Stage:
    """A player of `traces`, with `inside` if it decides inside its steps, and sessions, each on its thread."""

    def __init__(
        self,
        folder: Path,
        meta: TraceMeta,
        traces: Sequence[SequenceTrace],
        *,
        ratio: float,
        times: int,
        inside: InsideStep | None = None,
        in_step: InStep | None = None,
        lease_seconds: float = 3.0,
    ) -> None:
        """The runtime announces `in_step`, by default what `inside` does."""
        self.folder, self.traces = folder, traces
        self.transport = MemoryServer()
        geometry = geometry_of(meta, traces, ratio=ratio)
        announced = in_step or (inside.in_step if inside is not None else InStep())
        self.link = ControlLink(
            model="tiny", geometry=geometry, builtin_policy="lru", transport=self.transport, in_step=announced,
            limits=LinkLimits(lease_seconds=lease_seconds),
        )  # fmt: skip
        self.player = TracePlayer(meta, traces, self.link, geometry, times=times, inside=inside)
        self.inside = self.player.inside
        self.alive = True
        self.stop = threading.Event()
        self._threads: list[threading.Thread] = []

    def session(self, scorer: Scorer | None = None, learners: Learners = ALONE, **options: Any) -> Session:
        """Start one."""
        config = DaemonConfig(log_dir=self.folder, **options)
        connection = Connection(self.transport.connect(), "test")
        scorer = scorer or HeuristicScorer()
        made = Session(connection, config, lambda _silence: self.alive, scorer, learners=learners)
        self._threads.append(threading.Thread(target=made.run, args=(self.stop,)))
        self._threads[-1].start()
        return made

    def play(self, steps: int, pause: float = 0.005, learned_by: Session | None = None) -> None:
        """Play so many steps; after each wait until `learned_by` has learned it, or else for `pause` seconds."""
        for _ in range(steps):
            seen = self._learned(learned_by)
            assert self.player.step()
            self.player.pool.check_integrity()
            self.player.engine.tables.check_integrity()
            if learned_by is None:
                time.sleep(pause)
            else:
                until(lambda seen=seen: self._learned(learned_by) > seen)  # type: ignore[misc]

    def end_sessions(self) -> None:
        """Stop all sessions; others may come."""
        self.stop.set()
        for thread in self._threads:
            thread.join()
        self.stop, self._threads = threading.Event(), []

    def end(self) -> None:
        """Stop all sessions, and the runtime."""
        self.end_sessions()
        self.link.close()

    @staticmethod
    def _learned(session: Session | None) -> int:
        return 0 if session is None or session.sidecar is None else session.sidecar.status.counters.steps_received
