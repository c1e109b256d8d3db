"""The engine's end of the wire in virtual time, and the real daemon behind it, in lockstep.

Server, messages, encoding and session are those that decode processes and daemons use; only the transport is in
memory and the clock is the simulation's. The daemon takes its turn when it is free and something has come. Its plan
reaches the engine `plan_delay_us` and the time of its scoring later; until then the daemon is busy, so that a slow one
skips steps.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from pathlib import Path

from hotset.daemon.config import DaemonConfig
from hotset.daemon.connection import Connection
from hotset.daemon.planner import Scorer
from hotset.daemon.session import Session
from hotset.daemon.state import SessionState
from hotset.ops.simulate.daemon import Stopwatch, VirtualAhead
from hotset.protos.errors import HotsetError
from hotset.protos.messages import Advice, Capacity, Geometry, Hello, InStep, Lookahead, Model, Plan
from hotset.protos.transport.memory import MemoryServer
from hotset.protos.wire import Frame
from hotset.runtime.link.control import Published
from hotset.runtime.link.mailbox import LinkCounters, Mailbox
from hotset.runtime.link.server import LinkLimits, LinkServer

_LIMITS = LinkLimits(lease_seconds=3600.0, messages_per_second=1e12, bytes_per_second=1e15)


class Wire:
    """Nobody listens: the built-in policy decides alone. Also the interface that the engine uses."""

    attached = False

    def publish(self, message: Published) -> None:
        """Send to whoever listens."""

    def safe_point(self, now_us: float) -> None:
        """Virtual time has come to `now_us`: whatever arrives by then may be taken."""

    def take_plan(self) -> Plan | None:
        """The newest plan that has arrived and was not taken yet."""
        return None

    def take_advice(self) -> Advice | None:
        """The newest advice that has arrived and was not taken yet."""
        return None

    def take_lookahead(self) -> Lookahead | None:
        """The newest steering of what is decided inside steps that has arrived and was not taken yet."""
        return None

    def take_models(self) -> list[Model]:
        """Models that arrived since the last call, oldest first."""
        return []

    def snapshot_wanted(self) -> bool:
        """Whether the daemon asks for the whole state."""
        return False

    def end_step(self, epoch: int) -> None:
        """Tell whoever attaches that the engine stands at `epoch`."""

    @property
    def steps_dropped(self) -> int:
        """Step messages that the daemon's queue had no room for."""
        return 0

    def close(self) -> None:
        """End the session."""


class LockstepWire(Wire):
    """One daemon session on the simulation's clock."""

    attached = True

    def __init__(
        self,
        model: str,
        geometry: Geometry,
        capacity: Capacity,
        *,
        builtin: str,
        scorer: Scorer,
        config: DaemonConfig,
        plan_delay_us: float,
        watch: Stopwatch,
        in_step: InStep | None = None,
        running: int = 0,
    ) -> None:
        """`running`: sequences that the engine says it decodes already."""
        self._now_us = 0.0
        self._watch = watch
        self._delay_us = plan_delay_us
        self._busy_until = 0.0
        self._coming: deque[tuple[float, bytes, list[Frame]]] = deque()
        self._transport = MemoryServer()
        self._mailbox, self._counters = Mailbox(), LinkCounters()
        self._hello = Hello(
            session=f"simulated-{os.getpid()}", pid=os.getpid(), model=model[:256] or "trace", geometry=geometry,
            epoch=0, builtin_policy=builtin, controller=False, lease_seconds=_LIMITS.lease_seconds, capacity=capacity,
            in_step=in_step or InStep(), sequences=running,
        )  # fmt: skip
        self._server = LinkServer(self._transport, self._mailbox, self._counters, limits=_LIMITS, hello=self._greet)
        self._server.limit_entries(geometry.slots)
        self._client = self._transport.connect()
        connection = Connection(self._client, "hotset-simulate")
        self._ahead: VirtualAhead | None = None
        self.session = Session(
            connection, config, lambda silence: True, scorer, clock=watch.seconds, ahead=self._make_ahead
        )
        self.session.begin()
        self._collect()
        self.safe_point(0.0)

    def publish(self, message: Published) -> None:
        """See Wire."""
        self._server.broadcast(message)

    def safe_point(self, now_us: float) -> None:
        """See Wire. Raises HotsetError if the daemon has ended the session."""
        self._now_us = now_us
        self._deliver()
        while (self._client.inbox or self.session.has_news) and self._busy_until <= now_us:
            if self._ahead is not None:
                self._ahead.catch_up(now_us)
            self._watch.turn(now_us)
            self.session.turn(0)
            if self.session.ended:
                raise HotsetError(f"the daemon ended the simulated session: {self.session.ended}")
            self._collect()
            self._deliver()

    def take_plan(self) -> Plan | None:
        """See Wire."""
        return self._mailbox.take_plan()

    def take_advice(self) -> Advice | None:
        """See Wire."""
        return self._mailbox.take_advice()

    def take_lookahead(self) -> Lookahead | None:
        """See Wire."""
        return self._mailbox.take_lookahead()

    def take_models(self) -> list[Model]:
        """See Wire."""
        return self._mailbox.take_models()

    def snapshot_wanted(self) -> bool:
        """See Wire."""
        if self._mailbox.snapshot_wanted:
            self._mailbox.snapshot_wanted = False
            return True
        return False

    def end_step(self, epoch: int) -> None:
        """See Wire."""
        self._hello = self._hello.model_copy(update={"epoch": epoch})

    @property
    def steps_dropped(self) -> int:
        """See Wire."""
        return self._counters.steps_dropped

    def close(self) -> None:
        """See Wire."""
        self.session.finish("simulated")

    def _greet(self, leads: bool, holder: str) -> Hello:
        return self._hello.model_copy(update={"controller": leads, "holder": holder})

    def _make_ahead(self, state: SessionState, spent: Callable[[int, float], None]) -> VirtualAhead:
        self._ahead = VirtualAhead(self._watch, state, spent)
        return self._ahead

    def _collect(self) -> None:
        """What the daemon said in its turn: a plan takes its time, the rest comes at once."""
        while (received := self._transport.receive(0)) is not None:
            peer, frames = received
            planned = bytes(frames[0]) == b"plan"
            at = self._now_us + (self._delay_us + self._watch.spent_us if planned else 0.0)
            self._busy_until = max(self._busy_until, at)
            self._coming.append((at, peer, frames))

    def _deliver(self) -> None:
        while self._coming and self._coming[0][0] <= self._now_us:
            _, peer, frames = self._coming.popleft()
            self._server.handle(peer, frames, self._now_us / 1e6)


def daemon_config(log_dir: Path, **options: object) -> DaemonConfig:
    """Options of the simulated node's daemon: no log of steps, no training, no look at other processes."""
    return DaemonConfig.model_validate({"log_dir": log_dir, "record": False, **options})
