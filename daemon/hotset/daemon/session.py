"""One decode process, from attach to its end: the conversation, the lease, and when it is over."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from functools import partial

from hotset.daemon.advice.node import Node
from hotset.daemon.ahead import Ahead
from hotset.daemon.config import DaemonConfig
from hotset.daemon.connection import Connection, Received
from hotset.daemon.events import say
from hotset.daemon.learners import ALONE, Learners
from hotset.daemon.planner import Scorer
from hotset.daemon.resume import StateFile
from hotset.daemon.sidecar import Sidecar
from hotset.daemon.state import SessionState
from hotset.protos.errors import HotsetError, ProtocolError
from hotset.protos.messages import PROTOCOL_VERSION, Advice, Detach, Error, Heartbeat, Hello, Message

WAIT_SECONDS = 0.2
GREETING_SECONDS = 1.0
MESSAGES_A_TURN = 256
TURN_SECONDS = 0.02
"""for taking in, at most"""
FINAL_ERRORS = frozenset(
    {"version", "malformed", "too_large", "too_many_peers", "wrong_sender", "wrong_direction", "revoked"}
)
"""After these error codes the runtime does not want us back on this session."""


class Session:
    """Owned by the thread that calls `run`. `ended` says why it is over, and is empty while it is not."""

    def __init__(
        self,
        connection: Connection,
        config: DaemonConfig,
        alive: Callable[[float], bool],
        scorer: Scorer,
        clock: Callable[[], float] = time.monotonic,
        state: StateFile | None = None,
        node: Node | None = None,
        ahead: Callable[[SessionState, Callable[[int, float], None]], Ahead] = Ahead,
        learners: Learners = ALONE,
    ) -> None:
        """`alive(silence)` tells whether the runtime is still there, given the seconds since it last spoke.

        `clock` gives the seconds by which everything is timed; a simulation brings its own. `state` knows what an
        earlier daemon had in service, `node` what the sessions of one daemon share, `ahead` makes who scores ahead,
        and `learners`, which they share as well, learn.
        """
        self.sidecar: Sidecar | None = None
        self.ended = ""
        self.turned = time.monotonic()
        """When the last turn was over; whoever watches us sees here that we hang."""
        self._connection = connection
        self._config = config
        self._alive = alive
        self._scorer = scorer
        self._clock = clock
        self._state = state
        self._make_sidecar = partial(Sidecar, clock=clock, node=node, ahead=ahead, learners=learners)
        self._news: Received | None = None
        """Came while there was still something to learn."""
        self._heard = self._spoke = clock()
        self._keep_alive = GREETING_SECONDS

    @property
    def has_news(self) -> bool:
        """Whether something was received that the next turn will take."""
        return self._news is not None

    def run(self, stop: threading.Event) -> None:
        """Serve until the runtime is gone, lets us go, or `stop` is set; then finish the log."""
        reason = "stopped"
        try:
            self.begin()
            while not stop.is_set() and not self.ended:
                self.turn()
                self.turned = time.monotonic()
        except HotsetError as error:
            reason = str(error)
        except Exception as error:  # noqa: BLE001 - it is logged, with its traceback
            # A fault of ours must not take the other sessions along, nor the log of this one.
            say(logging.ERROR, "session_failed", failure=error)
            reason = f"internal error: {error!r}"
        finally:
            self.finish(self.ended or reason)

    def configure(self, config: DaemonConfig) -> None:
        """From another thread: take these options from the next turn on."""
        self._config = config

    def begin(self) -> None:
        """Ask for the lease. `run` does it; a simulation that takes the turns itself does, too."""
        self._connection.attach("controller")

    def finish(self, reason: str) -> None:
        """Let go of the runtime and finish the log."""
        self._say(Detach(reason=reason[:200]))
        self._connection.close()
        if self.sidecar is not None:
            self.sidecar.close(reason)
        self.ended = reason

    def turn(self, wait: float = WAIT_SECONDS) -> None:
        """Take in all that has come, after at most `wait` seconds, answer it, and learn until there is more."""
        received, self._news = self._news or self._connection.receive(wait), None
        arrived = self._clock()
        if received is None and not self._alive(arrived - self._heard):
            self.ended = "the decode process is gone"
        taken = 0
        while received is not None and not self.ended:
            self._heard = arrived
            self._take(received)
            taken += 1
            # Plan only from the newest of the steps that have piled up; but a runtime that is faster than we are
            # must not keep us from planning, nor from keeping the lease.
            more = taken < MESSAGES_A_TURN and self._clock() - arrived < TURN_SECONDS
            received = self._connection.receive(0) if more else None
        if self.sidecar is not None:
            self.sidecar.configure(self._config)
            self.sidecar.answer(arrived)
            self.sidecar.status.gauges.ingest_lag = self._clock() - arrived
            self._learn(self.sidecar, arrived)
            self.sidecar.tend()
        if arrived - self._spoke > self._keep_alive:
            self._speak()

    def _learn(self, sidecar: Sidecar, arrived: float) -> None:
        """What waits is learned until there is news, but for no less time than the answer took: it must not starve."""
        now = self._clock()
        least = now + (now - arrived)
        while sidecar.learn_some():
            if self._clock() >= least and (news := self._connection.receive(0)) is not None:
                self._news = news
                return

    def _take(self, received: Received) -> None:
        message, missing = received
        if isinstance(message, Hello):
            self._greeted(message)
        elif isinstance(message, Error):
            self._refused(message)
        elif self.sidecar is not None:
            if missing:
                self.sidecar.lost(missing)
            self.sidecar.learn(message)

    def _greeted(self, hello: Hello) -> None:
        if hello.protocol != PROTOCOL_VERSION:
            raise ProtocolError(f"pid {hello.pid} speaks protocol {hello.protocol}, this daemon {PROTOCOL_VERSION}")
        if self.sidecar is not None and hello.session != self.sidecar.status.about["session"]:
            # ZeroMQ has connected us anew, to whoever listens at this address now: its pages are not those we know.
            self.ended = "another runtime answers in its place"
            return
        if self.sidecar is None:
            self.sidecar = self._make_sidecar(hello, self._config, self._scorer, self._say)
            if self._state is not None and (recalled := self._state.recall(hello)) is not None:
                self.sidecar.resume(*recalled)
        self._keep_alive = hello.lease_seconds / 3
        self.sidecar.greeted(hello)

    def _refused(self, error: Error) -> None:
        if error.code in FINAL_ERRORS:
            self.ended = f"{error.code}: {error.reason}"
        elif error.code == "not_attached":
            # A new connection, or a new runtime: the greeting will tell.
            self.begin()
        elif self.sidecar is not None:
            self.sidecar.refused(error.reason)

    def _speak(self) -> None:
        """Keep the lease, or ask for it again: its holder may be gone by now."""
        if self.sidecar is not None and self.sidecar.leads:
            self._say(Heartbeat())
        else:
            self._spoke = self._clock()
            self._connection.attach("controller")

    def _say(self, message: Message) -> bool:
        self._spoke = self._clock()
        sent = self._connection.send(message)
        if sent and isinstance(message, Advice) and self.sidecar is not None:
            self.sidecar.status.advised(message)
        return sent
