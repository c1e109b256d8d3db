"""Everything of a session that concerns the inside of a step: see the package. Fed by the session's thread."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import numpy.typing as npt

from hotset.daemon.events import say
from hotset.daemon.instep.distance import Distances
from hotset.daemon.instep.layers import LayerTally
from hotset.daemon.instep.push import ModelPush
from hotset.daemon.instep.rules import LookaheadRules
from hotset.daemon.instep.threshold import Thresholds
from hotset.daemon.instep.watch import Verdict, Watch
from hotset.daemon.scorers import LearnedScorer
from hotset.daemon.status import SessionStatus
from hotset.protos.messages import Ack, Hello, LayerFigure, Lookahead, Message, Model, Step

HOLD_STEPS = 1024
"""for which a steering holds; it is said anew after half of them"""
CHANGE = 0.02
"""in a probability that is worth saying"""
PAGES_CHANGE = 0.25
"""in a layer's limit, of the larger one"""


class InStepSide:
    """`observe` every step, then send what `due` gives."""

    def __init__(self, hello: Hello, rules: LookaheadRules, status: SessionStatus) -> None:
        layers = hello.geometry.layers
        self.rules = rules
        self.tally = status.layers = LayerTally(layers)
        self.push = ModelPush(hello.in_step, enabled=rules.push)
        self._watch = Watch()
        self._page_bytes = hello.geometry.page_bytes
        self._status = status
        self._looks_ahead = bool(hello.in_step.distances)
        self._thresholds = Thresholds(layers)
        both = len(set(hello.in_step.distances)) > 1
        self._distances = Distances(layers, trial=rules.trial, rest=rules.rest) if both else None
        self._rated = False
        self._number = 0
        self._said: Lookahead | None = None
        self._said_at = 0
        self._refused = False

    def observe(self, step: Step, bytes_per_us: float | None) -> None:
        """Take in one step, and the link's rate if it is known. Raises ProtocolError for a wrong number of layers."""
        told = self.tally.steps
        self.tally.observe(step)
        self.push.observe(step.stats.device_model, step.epoch)
        gauges = self._status.gauges
        gauges.device_model = bool(step.stats.device_model)
        if self.tally.steps == told or step.stats.warming:
            return
        self._judge(self._watch.observe(step))
        gauges.step_precision, gauges.step_coverage = self.tally.overall()
        self._thresholds.observe(step)
        # Before a model decides there is nothing to steer, and thresholds would drift.
        if bytes_per_us is not None and step.stats.device_model:
            self._look(step, bytes_per_us)

    def _judge(self, verdict: Verdict) -> None:
        """Withdraw the model that decides, if it is ours, or put it back."""
        push, reason = self.push, self._watch.reason
        if verdict is Verdict.RESTORE and push.state == "tried":
            push.restore()
            self._status.phase("push_restored", version=push.version, reason=reason)
        elif verdict is Verdict.TRY and push.state == "in force":
            push.take_back(reason, tried=True)
            self._status.phase("push_tried", version=push.version, reason=reason)
        elif verdict is Verdict.WITHDRAW and push.state in ("in force", "tried"):
            push.take_back(reason)
            self._status.counters.models_withdrawn += 1
            self._status.phase("push_withdrawn", version=push.version, reason=reason)

    def _look(self, step: Step, bytes_per_us: float) -> None:
        rules, tally = self.rules, self.tally
        self._rated = True
        if tally.steps % rules.speak_every == 0:
            self._thresholds.look(
                bytes_per_us, page_bytes=self._page_bytes, share=rules.link_share, floor=rules.least,
                distance=tally.total[LayerFigure.DISTANCE],
            )  # fmt: skip
        if self._distances is not None and tally.recent[LayerFigure.STEP_PAGES].any():
            self._distances.observe(step.by_layer, bytes_per_us / self._page_bytes)

    def due(self, scorer: LearnedScorer | None, epoch: int, *, meant: bool = False) -> list[Message]:
        """What to send now, when `scorer` is the model in service; `meant` if a person chose it."""
        if self.push.wish(scorer, meant=meant):
            self._watch.begin()
        found: list[Message] = []
        if (model := self.push.due(epoch)) is not None:
            found.append(model)
        if (steering := self._steering(epoch)) is not None:
            found.append(steering)
        return found

    def sent(self, message: Message, *, well: bool) -> None:
        """What `due` gave was sent, or the queue was full."""
        counters = self._status.counters
        if isinstance(message, Model):
            if not well:
                self.push.unsent()
                return
            if not len(message.forest):
                return
            counters.models_pushed += 1
            self._status.phase("push", version=message.version, bytes=len(message.forest), number=message.number)
        elif isinstance(message, Lookahead):
            self._said = message if well else None
            counters.lookaheads_sent += well

    def renewed(self) -> None:
        """The lease is ours, anew: what was said before may be forgotten."""
        self.push.renewed()
        self._said, self._refused = None, False

    def acknowledged(self, ack: Ack) -> None:
        """The runtime says what became of a model or a steering."""
        if ack.of == "model" and self.push.acknowledged(ack):
            if self.push.taken_back:
                return
            self._status.counters.models_refused += not ack.accepted
            if ack.accepted:
                self._status.phase("push_accepted", version=self.push.version)
            else:
                self._status.phase("push_refused", version=self.push.version, reason=ack.reason)
        elif ack.of == "lookahead" and ack.number == self._number and not ack.accepted:
            self._status.counters.lookaheads_refused += 1
            if not self._refused:
                say(logging.WARNING, "lookahead_refused", pid=self._status.about.get("pid"), reason=ack.reason)
            self._refused = True

    def report(self) -> dict[str, Any]:
        """For status.json."""
        push = {"state": self.push.state, "version": self.push.version, "reason": self.push.reason}
        distances = self._distances
        steered = {"refused": self._refused, "trust": round(self._thresholds.trust, 4)}
        trials = {"trials": distances.trials, "chosen": distances.chosen.tolist()} if distances is not None else {}
        figures = self.tally.as_dict(self._page_bytes) if self.tally.steps else {}
        return {"model": push, "looks_ahead": self._looks_ahead, "steering": steered | trials, **figures}

    def _steering(self, epoch: int) -> Lookahead | None:
        if not self._looks_ahead or not self.rules.steer or self._refused or not self._rated:
            return None
        thresholds, layers = self._thresholds, len(self._thresholds.least)
        distance = np.full(layers, -1, np.int8) if self._distances is None else self._distances.now
        message = Lookahead(
            number=self._number + 1, steps=HOLD_STEPS, distance=distance, least=thresholds.least.astype("<f4"),
            # Who goes on with a model that was taken back fetches nothing by it.
            pages=np.zeros_like(thresholds.pages) if self.push.stays else thresholds.pages,
            reason=f"{self.rules.link_share * thresholds.trust:.0%} of the link's rate, less demand and plans",
        )  # fmt: skip
        if not self._news(message, epoch):
            return None
        self._number, self._said_at = message.number, epoch
        return message

    def _news(self, message: Lookahead, epoch: int) -> bool:
        said, since = self._said, epoch - self._said_at
        if said is None or since >= HOLD_STEPS // 2:
            return True
        if not np.array_equal(said.distance, message.distance):
            return True
        moved = np.abs(said.least - message.least).max() >= CHANGE or _differ(said.pages, message.pages)
        return bool(moved) and since >= self.rules.speak_every


def _differ(before: npt.NDArray[np.int32], now: npt.NDArray[np.int32]) -> bool:
    """Whether limits changed by more than the noise of an average."""
    return bool((np.abs(now - before) > np.maximum(1, PAGES_CHANGE * np.maximum(before, now))).any())
