"""A decode step of the whole batch, once every sequence has a place for its token: what differs between backends."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

from hotset.protos.messages import StepStats
from hotset.runtime import events
from hotset.runtime.generation import Generation
from hotset.runtime.groups import Sequence
from hotset.runtime.huggingface import Forward
from hotset.runtime.link.control import Published
from hotset.runtime.lookahead import Lookahead
from hotset.runtime.paged_kv import PagedKV
from hotset.runtime.passes import DecodePass
from hotset.runtime.selectors import Selector
from hotset.runtime.steering import Steering

Stats = Callable[[], StepStats]
"""Makes what a step says of itself, from figures taken as it ended: whenever there is time, on any thread."""


class Hooks(NamedTuple):
    """What the decode loop has a step call."""

    safe_point: Callable[[], None]
    """Where nothing is decided, before a layer or a step: arrived prefetches enter."""
    then: Callable[[], None]
    """Once K and V of the step are written, or will be before anything that is launched from there on."""
    follow: Callable[[int, float], None]
    """Take over a plan that has arrived for the step of this epoch, or that arrives in so many seconds."""
    goes_on: Callable[[], bool]
    """Whether the step to come is of the same sequences, as far as anybody can know before the tokens of this one."""


class Steps(Protocol):
    """The decode loop calls run, finish and then publish, once a step each."""

    last: DecodePass | None
    """The pass of the last step, where the host has it."""
    warming: bool
    """Whether the last step compiled or captured what later ones only run, so that its time tells nothing of them."""

    @property
    def launched(self) -> bool:
        """Whether the next step has been launched: for those of the last, of whom some may have ended since.

        Until it is run or dropped, nothing but ends of sequences may change who holds what.
        """

    def run(self, batch: list[Generation], hooks: Hooks, *, epoch: int, tell: bool) -> list[int]:
        """The next token of each of `batch`, in step `epoch`. `tell`: the step will be published.

        Where a device computes, `then` is called before its tokens are waited for. `follow` is called at safe points
        for this step, or for the next one while a device computes this one, which then need not wait for it. Where
        `goes_on` says so, a device gets the next step then, too, and need not wait for the host between the two.
        """

    def drop(self) -> None:
        """Forget the step that has been launched, if one has; it is as if it had only moved pages."""

    def finish(self) -> None:
        """The tokens are in and full tails sealed: learn from the step and refill the reserve."""

    def publish(self, steering: Steering, sequences: list[Sequence], epoch: int, stats: Stats) -> None:
        """Send what the step accessed; takes the changes since the last time. Never waits for a peer."""

    def send(self, steering: Steering, message: Published) -> None:
        """Send another message, in order with the steps."""

    def close(self) -> None:
        """Send what is left."""


class HostSteps:
    """On a CPU: everything at once, in order."""

    def __init__(self, kv: PagedKV, forward: Forward, selector: Selector, ahead: Lookahead | None = None) -> None:
        self.kv, self._forward, self._selector, self._ahead = kv, forward, selector, ahead
        self.last: DecodePass | None = None
        self.warming = False

    def run(self, batch: list[Generation], hooks: Hooks, *, epoch: int, tell: bool) -> list[int]:
        """See Steps."""

        def between() -> None:
            hooks.safe_point()
            hooks.follow(epoch, 0.0)

        sequences = [g.sequence for g in batch]
        self.last = done = DecodePass(
            self.kv, sequences, self._selector, between,
            lambda b: self._ahead.begin(sequences, b, epoch) if self._ahead else None,
        )  # fmt: skip
        logits = self._forward(
            done, [[g.tokens[-1]] for g in batch], [[s.length - 1] for s in sequences], max(s.length for s in sequences)
        )
        hooks.then()
        return [generation.sampler(row) for generation, row in zip(batch, logits, strict=True)]

    @property
    def launched(self) -> bool:
        """See Steps."""
        return False

    def drop(self) -> None:
        """See Steps."""

    def finish(self) -> None:
        """See Steps."""
        assert self.last is not None, "a step comes first"
        manager = self.kv.manager
        manager.observe(*self.last.candidate_heat(margins=manager.by_margin))
        manager.end_step()

    def publish(self, steering: Steering, sequences: list[Sequence], epoch: int, stats: Stats) -> None:
        """See Steps."""
        assert self.last is not None, "a step comes first"
        steering.publish(events.step_message(self.kv, self.last, sequences, epoch, stats()))

    def send(self, steering: Steering, message: Published) -> None:
        """See Steps."""
        steering.publish(message)

    def close(self) -> None:
        """See Steps."""
