"""How a daemon steers the decode loop: plans, models and advice enter at safe points, events leave after steps."""

from __future__ import annotations

import sys
from collections.abc import Callable

import torch

from hotset.protos.messages import Ack, Advice, Plan
from hotset.runtime.link import ControlLink
from hotset.runtime.link.control import Published
from hotset.runtime.lookahead import Lookahead
from hotset.runtime.residency import ResidencyManager

_KEPT_TICKS = 64
SWITCH_SECONDS = 1e-4
"""That a thread of the link may keep the interpreter while the decode loop wants it. Python's own 5 ms are more than a
step of a small model on a GPU takes, in which the loop has to launch what follows, and often the next step."""


class Steering:
    """Nobody steers: the built-in policy decides alone. Also the interface that the decode loop uses."""

    @property
    def attached(self) -> bool:
        """Whether anybody wants step messages."""
        return False

    def publish(self, message: Published) -> None:
        """Send to whoever listens; never waits, never raises."""

    def apply(self, manager: ResidencyManager, epoch: int, patience: float = 0.0) -> None:
        """Apply the plan that has arrived, or arrives in `patience` seconds, for the step `epoch`.

        Called where nothing is decided meanwhile: at layer and step boundaries, and on a device behind a step.
        """

    def heed(self) -> None:
        """Follow the advice that has arrived. Called between steps only, before it is decided who runs."""

    def guide(self, ahead: Lookahead | None, epoch: int) -> None:
        """Hand models and steering to what decides inside the step `epoch`. Called between steps only."""

    def end_step(self, epoch: int, tick: int) -> None:
        """Remember at which tick a step ended, to tell which uses a plan had seen."""

    def snapshot_wanted(self) -> bool:
        """Whether a listener needs the whole state."""
        return False

    def steps_dropped(self) -> int:
        """Step messages that no listener got, cumulative."""
        return 0

    def lose_step(self) -> None:
        """A step message could not even be made; listeners see a gap."""

    def close(self) -> None:
        """Stop listening."""


class LinkSteering(Steering):
    """Steered over a ControlLink. Whatever a plan holds, the worst it can do is to make the hot set useless.

    As long as it is open, Python switches threads after SWITCH_SECONDS in the whole process.

    `on_advice` follows an advice and returns where it had to change it, for the ack.
    """

    def __init__(self, link: ControlLink, *, lifetime: int, on_advice: Callable[[Advice], str] | None = None) -> None:
        self.link, self._lifetime, self._on_advice = link, lifetime, on_advice
        self._tick_of: dict[int, int] = {}
        self._switched_after = sys.getswitchinterval()
        sys.setswitchinterval(min(self._switched_after, SWITCH_SECONDS))

    @property
    def attached(self) -> bool:
        """See Steering."""
        return self.link.attached

    def publish(self, message: Published) -> None:
        """See Steering."""
        self.link.publish(message)

    def apply(self, manager: ResidencyManager, epoch: int, patience: float = 0.0) -> None:
        """See Steering."""
        if (plan := self.link.take_plan(patience if self.attached else 0.0)) is not None:
            self._apply_plan(manager, plan, epoch)

    def heed(self) -> None:
        """See Steering."""
        if (advice := self.link.take_advice()) is not None:
            reason = self._on_advice(advice)[:4096] if self._on_advice is not None else "nobody here follows advice"
            followed = self._on_advice is not None
            self.link.publish(Ack(of="advice", number=advice.number, accepted=followed, reason=reason))

    def guide(self, ahead: Lookahead | None, epoch: int) -> None:
        """See Steering."""
        models = self.link.take_models()
        for number, model in enumerate(models):
            if number < len(models) - 1:
                reason = f"superseded: by {models[-1].number}"
            else:
                reason = ahead.take_model(model) if ahead else "unsupported: this runtime does not look ahead"
            self._answer("model", model.number, reason)
        if (steer := self.link.take_lookahead()) is not None:
            reason = ahead.follow(steer, epoch) if ahead else "this runtime does not look ahead"
            self._answer("lookahead", steer.number, reason)

    def _answer(self, of: str, number: int, refused: str) -> None:
        self.link.publish(Ack(of=of, number=number, accepted=not refused, reason=refused[:4096]))

    def end_step(self, epoch: int, tick: int) -> None:
        """See Steering."""
        self.link.at_epoch(epoch)
        if tick < self._tick_of.get(epoch - 1, tick):
            self._tick_of.clear()  # ticks are counted anew; plans that had seen those before come too late
        self._tick_of[epoch] = tick
        self._tick_of.pop(epoch - _KEPT_TICKS, None)

    def snapshot_wanted(self) -> bool:
        """See Steering."""
        return self.link.snapshot_wanted()

    def steps_dropped(self) -> int:
        """See Steering."""
        counters = self.link.counters
        return counters.outbox_steps_dropped + counters.steps_dropped

    def lose_step(self) -> None:
        """See Steering."""
        self.link.lose_step()

    def close(self) -> None:
        """See Steering."""
        self.link.close()
        sys.setswitchinterval(self._switched_after)

    def _apply_plan(self, manager: ResidencyManager, plan: Plan, epoch: int) -> None:
        seen = self._tick_of.get(plan.epoch)
        if seen is None or plan.deadline < epoch:
            reason = "late" if plan.deadline < epoch else "unknown_epoch"
            entries = len(plan.pages) + len(plan.prefetch)
            manager.moved.entries_rejected[reason] += entries
            self.link.publish(
                Ack(of="plan", number=plan.number, accepted=False, rejected={reason: entries}, reason=reason)
            )
            return
        until = seen + self._lifetime * manager.state.ticks_per_step
        manager.moved.plans_applied += 1
        manager.follow(
            (torch.tensor(plan.pages), torch.tensor(plan.generations, dtype=torch.int64), torch.tensor(plan.values)),
            (torch.tensor(plan.prefetch), torch.tensor(plan.prefetch_generations, dtype=torch.int64)),
            epoch_tick=seen,
            until_tick=until,
            tell=lambda applied, rejected: self.link.publish(
                Ack(of="plan", number=plan.number, accepted=True, applied=applied, rejected=dict(rejected))
            ),
        )
