"""One session's advisor: takes in every step, and says something new when it is worth saying."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from hotset.daemon.advice.concurrency import ConcurrencyController
from hotset.daemon.advice.ghost import Ghost
from hotset.daemon.advice.meter import Load
from hotset.daemon.advice.node import Node
from hotset.daemon.advice.overlap import Overlap
from hotset.daemon.advice.pacing import Pacer
from hotset.daemon.advice.promise import Promise
from hotset.daemon.advice.rules import AdviceRules
from hotset.daemon.advice.shares import Expectation, Outlook, Pool
from hotset.daemon.state import SessionState
from hotset.protos.messages import Ack, Advice, Hello, SequenceClose, Step

WARM_STEPS = 8
OUTLOOK_EVERY = 32
HINT_STEPS = WARM_STEPS + 4
"""After so many, the curve knows enough to say roughly where to begin."""
LEARNED_STEPS = 64
"""Before so many steps, the curve says little."""
SLOTS_CHANGE = 0.05


class Advisor:
    """Fed by the session's thread. `advise` returns what to send; `node` knows the other sessions of this process."""

    def __init__(
        self, hello: Hello, rules: AdviceRules, node: Node | None = None, link_gbps: float | None = None
    ) -> None:
        """`link_gbps` is the host link's rate (10^9 bytes a second) if it is known; else it is measured."""
        shape, limit = hello.geometry, hello.capacity.max_sequences
        self.number = 0
        self.said: Advice | None = None
        """What the runtime was told last."""
        self.report: dict[str, Any] = {}
        """For status.json: what is advised and expected, and the curve behind it."""
        self._rules, self._node = rules, node or Node()
        self._session, self._device = hello.session, hello.capacity.device
        self._pool = Pool.of(shape, hello.capacity)
        if self._pool.budget and self._device:
            self._node.join(hello.session, self._device)
        self._limit = limit
        self._controller = ConcurrencyController(rules, limit, self._promise, self._pool.fits())
        self._begun = "as many as fit the hot set"
        if rules.concurrency and not hello.sequences:
            self._controller.start()
        self._ghost = Ghost(
            shape.lanes, shape.groups, pages=rules.sample_pages, cells=rules.sample_cells,
            half_life=rules.half_life, warm_steps=WARM_STEPS,
        )  # fmt: skip
        self._expectation = Expectation(shape, link_gbps, rules.half_life)
        self._pacer = Pacer(rules.warm_share, rules.half_life)
        self._overlap = Overlap(shape.page_bytes)
        self._outlook: Outlook | None = None
        self._share: float | None = None
        self._recalled_slots: int | None = None
        self._steps = self._epoch = 0
        self._spoke_at: int | None = None
        self._refused = False

    def resume(self, concurrency: int | None, hot_slots: int | None) -> None:
        """Begin with what an earlier daemon advised this runtime; before the first step."""
        if concurrency and self._rules.concurrency:
            self._controller.resume(concurrency)
            self._begun = "as an earlier daemon advised"
        self._recalled_slots = hot_slots if self._rules.shares else None

    def observe(self, message: Step, state: SessionState) -> None:
        """One step, after `state` has learned from it."""
        stats = message.stats
        self._epoch, self._steps = message.epoch, self._steps + 1
        self._ghost.observe(message, state)
        if stats.warming:
            return
        load = Load(len(message.sequences), stats.waiting + stats.paused, stats.step_us, stats.stall_us)
        if load.running and load.step_us:
            slots = min(stats.hot_slots or self._pool.slots, float(self._pool.hot(np.array(float(load.running)))))
            self._expectation.observe(load, slots, stats.demand_pages, self._ghost.steady)
            if self._steps % OUTLOOK_EVERY == 0 and self._steps >= LEARNED_STEPS:
                self._look_ahead()
            outlook = self._outlook
            self._pacer.observe(load.step_us, outlook.link.miss_us * self._ghost.warm_up if outlook else 0.0)
        if self._rules.concurrency and not self._refused:
            self._controller.fits = self._pool.fits(stats.hot_slots)
            self._controller.observe(load)
        if self._rules.groups and self._steps % self._rules.groups_every == 0:
            self._overlap.look(message, state)

    def closing(self, message: SequenceClose, state: SessionState) -> None:
        """A sequence ends; called before `state` forgets it."""
        ending = state.sequences.get(message.sequence)
        if ending is None:
            return
        others = [s.groups for s in state.sequences.values() if s is not ending and len(s.groups)]
        groups = ending.groups
        # Only those who share the first page can share others.
        kin = [g for g in others if len(groups) and g[0] == groups[0]]
        self._ghost.forget(message.sequence, np.setdiff1d(groups, np.concatenate(kin)) if kin else groups)
        self._overlap.forget(message.sequence)
        self._pacer.ended()

    def forget(self, sequences: Iterable[int]) -> None:
        """They are gone, and how they ended was not heard of."""
        for number in sequences:
            self._ghost.forget(number, np.empty(0, np.int32))
            self._overlap.forget(number)

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
        groups = self._overlap.groups if self._rules.groups else []
        advice = Advice(
            number=self.number + 1, concurrency=self._controller.target,
            admit_every=self._pacer.every if self._rules.pacing else None, hot_slots=self._hot_slots(),
            groups=[g.sequences for g in groups], bytes_saved=[g.bytes_saved for g in groups], reason=self._reason(),
        )  # fmt: skip
        if not self._news(advice):
            return None
        self.number, self.said, self._spoke_at = advice.number, advice, self._epoch
        return advice

    def unsaid(self) -> None:
        """The last advice could not be sent, or somebody else has advised since: it is to be said again."""
        self.said = None

    def close(self) -> None:
        """The session is over; what it had of its device is free."""
        self._node.forget(self._session)

    def _look_ahead(self) -> None:
        """Look at the curve anew, and ask the node what of the device is ours."""
        self._outlook = outlook = self._expectation.outlook(self._ghost)
        if self._pool.budget and self._device:
            most = self._limit or max(1, round(2 * self._expectation.running))
            self._share = self._node.offer(self._session, self._device, outlook.offer(self._pool, most))
        running = max(1, round(self._expectation.running))
        sizes = np.unique(np.geomspace(self._pool.least, 2 * self._pool.slots, 16).astype(np.int64))
        count = np.array(float(running))
        self.report = {
            "concurrency": self._controller.target, "holding": self._controller.holding,
            "admit_every": self._pacer.every, "hot_slots": self._hot_slots(),
            "knee_slots": outlook.knee(self._pool, running, self._rules.knee),
            "device_bytes": self._share, "lru_factor": outlook.factor, "sample_rate": self._ghost.rate,
            "expected_stall_us": float(outlook.stall_us(count, self._pool.hot(count, self._share))),
            "curve": [[int(s), float(outlook.stall_us(count, np.array(float(s))))] for s in sizes],
        }  # fmt: skip

    def _promise(self, least: int, most: int) -> Promise | None:
        """What the curve promises, for the controller to try."""
        if self._steps < HINT_STEPS:
            return None
        return self._expectation.outlook(self._ghost).promise(self._pool, least, most, self._share)

    def _hot_slots(self) -> int | None:
        """What the sequences that are to run leave of our memory; at most the knee if that is wished."""
        if not self._rules.shares or self._outlook is None:
            return self._recalled_slots
        running = self._controller.target or max(1, round(self._expectation.running))
        slots = self._pool.slots
        if self._pool.budget and self._pool.sequence_bytes:
            slots = int(self._pool.hot(np.array(float(running)), self._share))
        if self._rules.trim:
            slots = min(slots, self._outlook.knee(self._pool, running, self._rules.knee))
        return max(slots, self._pool.least) if slots < self._pool.slots else None

    def _news(self, advice: Advice) -> bool:
        before = self.said or Advice(number=0)
        slots, told = advice.hot_slots, before.hot_slots
        moved = (slots is None) != (told is None) or bool(
            slots and told and abs(slots - told) > SLOTS_CHANGE * max(slots, told)
        )
        return (
            moved
            or (advice.concurrency, advice.admit_every) != (before.concurrency, before.admit_every)
            or advice.groups != before.groups
        )

    def _reason(self) -> str:
        best = self._controller.best
        if best is None:
            grouped = "groups by shared pages" if self._overlap.groups else ""
            begun = "guessing where to begin" if self._controller.probes else self._begun
            return begun if self._controller.target else grouped
        doing = "holding" if self._controller.holding else f"trying {self._controller.target}"
        return f"{doing}; best {best.concurrency} sequences, {best.goodput:.4g} tokens/s, {best.stall:.0%} stalled"
