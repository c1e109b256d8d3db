"""What the I/O thread hands to the decode loop, and what both count."""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass

from hotset.protos.messages import Advice, Lookahead, Model, Plan

MAX_MODELS = 4


@dataclass
class LinkCounters:
    """Counts since the link opened. All but `outbox_*` are written by the I/O thread, those by the loop's."""

    peer_steps_dropped: int = 0
    """Step messages not delivered because the peer's queue was at the high-water mark, once a peer."""
    peer_messages_dropped: int = 0
    """All other messages that were not delivered for that reason, or could not be encoded."""
    outbox_steps_dropped: int = 0
    """Step messages that `publish` had no room for: the I/O thread was held up."""
    outbox_dropped: int = 0
    """All messages that `publish` had no room for."""
    bad_frames: int = 0
    """Messages from peers that broke the protocol."""
    plans_received: int = 0
    plans_superseded: int = 0
    """Valid plans that a newer one replaced before the loop took them."""
    plans_refused: int = 0
    """Plans of a peer that does not hold the lease, or whose number did not grow."""
    peers: int = 0
    lease_changes: int = 0

    @property
    def steps_dropped(self) -> int:
        """For `StepStats.steps_dropped`."""
        return self.peer_steps_dropped + self.outbox_steps_dropped


class Mailbox:
    """Newest plan, advice and lookahead, and pending models, between two threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._came = threading.Condition(self._lock)
        self._plan: Plan | None = None
        self._advice: Advice | None = None
        self._lookahead: Lookahead | None = None
        self._models: deque[Model] = deque()
        self.snapshot_wanted = False

    def put_plan(self, plan: Plan) -> Plan | None:
        """Leave a plan; returns the one that it supersedes."""
        with self._lock:
            superseded, self._plan = self._plan, plan
            self._came.notify()
            return superseded

    def put(self, message: Advice | Lookahead) -> None:
        """Leave advice or a lookahead; the newest wins."""
        with self._lock:
            if isinstance(message, Advice):
                self._advice = message
            else:
                self._lookahead = message

    def put_model(self, model: Model) -> Model | None:
        """Leave a model; returns the one that there is no room for any more."""
        with self._lock:
            self._models.append(model)
            return self._models.popleft() if len(self._models) > MAX_MODELS else None

    def take_plan(self, patience: float = 0.0) -> Plan | None:
        """The newest plan, once; waits `patience` seconds for one."""
        if self._plan is None and patience <= 0:  # asked at every layer, so look before locking
            return None
        with self._lock:
            if self._plan is None:
                self._came.wait(patience)
            plan, self._plan = self._plan, None
            return plan

    def take_advice(self) -> Advice | None:
        """The newest advice, once."""
        if self._advice is None:
            return None
        with self._lock:
            advice, self._advice = self._advice, None
            return advice

    def take_lookahead(self) -> Lookahead | None:
        """The newest lookahead, once."""
        if self._lookahead is None:
            return None
        with self._lock:
            lookahead, self._lookahead = self._lookahead, None
            return lookahead

    def take_models(self) -> list[Model]:
        """Models that came since the last call, oldest first."""
        if not self._models:
            return []
        with self._lock:
            models = list(self._models)
            self._models.clear()
            return models

    def clear(self) -> None:
        """Forget what a controller left that has lost the lease."""
        with self._lock:
            self._plan = self._advice = self._lookahead = None
            self._models.clear()
