"""One session's advisor: takes in every step, and says something new when it is worth saying."""

from __future__ import annotations

from typing import Any

from hotset.daemon.advice.concurrency import ConcurrencyController
from hotset.daemon.advice.meter import Load
from hotset.daemon.advice.node import Node
from hotset.daemon.advice.rules import AdviceRules
from hotset.daemon.state import SessionState
from hotset.protos.messages import Ack, Advice, Hello, SequenceClose, Step


class Advisor:
    """Fed by the session's thread. `advise` returns what to send; `node` knows the other sessions of this process."""

    def __init__(
        self, hello: Hello, rules: AdviceRules, node: Node | None = None, link_gbps: float | None = None
    ) -> None:
        """`link_gbps` is the host link's rate (10^9 bytes a second) if it is known; else it is measured."""
        self.number = 0
        self.said: Advice | None = None
        """What the runtime was told last."""
        self._rules = rules
        self._controller = ConcurrencyController(rules, hello.capacity.max_sequences)
        self._epoch = 0
        self._spoke_at: int | None = None
        self._refused = False

    def observe(self, message: Step, state: SessionState) -> None:
        """One step, after `state` has learned from it."""
        stats = message.stats
        self._epoch = message.epoch
        if self._rules.concurrency and not self._refused:
            more = stats.waiting + stats.paused
            self._controller.observe(Load(len(message.sequences), more, stats.step_us, stats.stall_us))

    def closing(self, message: SequenceClose, state: SessionState) -> None:
        """A sequence ends; called before `state` forgets it."""

    def acknowledged(self, message: Ack) -> None:
        """The runtime says whether it follows."""
        if message.of == "advice" and message.number == self.number:
            self._refused = not message.accepted
            if self._refused:
                self._controller.forget()

    def advise(self) -> Advice | None:
        """What to tell the runtime now, if it differs from what it was told and it is time to speak."""
        every = self._rules.refused_every if self._refused else self._rules.speak_every
        if not self._rules.enabled or (self._spoke_at is not None and self._epoch - self._spoke_at < every):
            return None
        advice = Advice(number=self.number + 1, concurrency=self._controller.target, reason=self._reason())
        if not self._news(advice):
            return None
        self.number, self.said, self._spoke_at = advice.number, advice, self._epoch
        return advice

    def unsaid(self) -> None:
        """The last advice could not be sent: it is to be said again."""
        self.said = None

    def report(self) -> dict[str, Any]:
        """For status.json: what is advised, and why."""
        return {"concurrency": self._controller.target, "holding": self._controller.holding}

    def close(self) -> None:
        """The session is over."""

    def _news(self, advice: Advice) -> bool:
        before = self.said or Advice(number=0)
        return advice.concurrency != before.concurrency

    def _reason(self) -> str:
        best = self._controller.best
        if best is None:
            return ""
        doing = "holding" if self._controller.holding else f"trying {self._controller.target}"
        return f"{doing}; best {best.concurrency} sequences, {best.goodput:.4g} tokens/s, {best.stall:.0%} stalled"
