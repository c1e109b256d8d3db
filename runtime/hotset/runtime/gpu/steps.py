"""Decode steps on a device: whole passes from captured graphs, one wait a step, for its tokens.

Around a pass, in order: arrived prefetches enter; inputs go up; the pass runs; its tokens start for the host; behind
them the step is recorded, averages decay, the reserve is refilled, the events leave and a plan enters, while the host
already works on the tokens. Nothing of that is waited for.
"""

from __future__ import annotations

import time
from collections import Counter

import torch

from hotset.kernels.resolve import raise_if_failed
from hotset.runtime.generation import Generation
from hotset.runtime.gpu.ahead import AheadFlights
from hotset.runtime.gpu.device import Stream
from hotset.runtime.gpu.inputs import StepInputs
from hotset.runtime.gpu.outbox import Outbox
from hotset.runtime.gpu.passes import DevicePass
from hotset.runtime.gpu.program import Outcome, Program
from hotset.runtime.gpu.residency import DeviceResidency
from hotset.runtime.gpu.ring import EventRing, Told
from hotset.runtime.groups import Sequence
from hotset.runtime.huggingface import Forward
from hotset.runtime.link.control import Published
from hotset.runtime.lookahead import Lookahead
from hotset.runtime.paged_kv import PagedKV
from hotset.runtime.passes import DecodePass
from hotset.runtime.selectors import Selector
from hotset.runtime.steering import Steering
from hotset.runtime.steps import Follow, SafePoint, Stats, Then

BUCKETS = (1, 2, 4, 8, 16, 24)
CAPTURE_AFTER = 64
"""Steps that a shape of batch is served by a larger program, if there is one, before it gets one of its own."""
PATIENCE = 0.5
"""Of the time that a step's tokens are waited for, the part in which its end may wait for a plan."""
_NARROWEST = 64


def bucket(rows: int) -> int:
    """Rows that a step of `rows` sequences computes; beyond the last bucket in eights."""
    return next((size for size in BUCKETS if size >= rows), -(-rows // 8) * 8)


def table_width(groups: int) -> int:
    """Width of the page tables for sequences of up to `groups` groups: a power of two."""
    return max(_NARROWEST, 1 << (groups - 1).bit_length())


class DeviceSteps:
    """See Steps. `graphs` False runs every pass as it is, for the same tokens."""

    def __init__(
        self, kv: PagedKV, forward: Forward, selector: Selector, ahead: Lookahead | None = None, *, graphs: bool = True
    ) -> None:
        assert isinstance(kv.manager, DeviceResidency)
        assert kv.device is not None
        self.kv, self.manager, self.device = kv, kv.manager, kv.device
        self.last: DecodePass | None = None
        self.warming = False
        self._forward, self._selector, self._ahead = forward, selector, ahead
        if ahead is not None:
            self.manager.ahead = AheadFlights(self.manager, fetches=kv.config.lookahead_prefetch != "off")
        self._captures = graphs and selector.capturable and not self.manager.eager
        self.programs: dict[tuple[int, int], Program] = {}
        self._asked: Counter[tuple[int, int]] = Counter()
        self.ring = EventRing(kv)
        self.outbox = Outbox()
        self._told: Told | None = None
        self._has_told = False

    def run(
        self, batch: list[Generation], safe_point: SafePoint, then: Then, follow: Follow, *, epoch: int, tell: bool
    ) -> list[int]:
        """See Steps."""
        safe_point()
        if self._ahead is not None:
            self._ahead.settings.begin_step(epoch)
        program = self._program(batch)
        program.inputs.fill(batch, self._ahead.book if self._ahead else None)
        needed = len(batch) * self.kv.shape.kv_heads * self.kv.config.selected
        self.manager.make_way(needed)
        outcome = program(self._ahead.shape if self._ahead else None)
        answer = self.device.pinned(tuple(outcome.answer.shape), torch.int64)
        answer.copy_(outcome.answer, non_blocking=True)
        arrived = self.device.mark(Stream.DEMAND)
        self._behind(program, outcome.done, len(batch), tell)
        self.outbox.go()
        self.manager.answer_plans()
        then()
        start = time.perf_counter()
        if self.manager.tiered:
            # Here it costs the device nothing; before the next pass the device would wait for the launch.
            self.manager.commit_prefetches()
            follow(epoch + 1, PATIENCE * program.seconds)
        arrived.synchronize()
        self.outbox.pause()
        program.seconds = time.perf_counter() - start
        return self._tokens(batch, outcome, answer.tolist())

    def finish(self) -> None:
        """See Steps; `run` has launched all of it."""

    def publish(self, steering: Steering, sequences: list[Sequence], epoch: int, stats: Stats) -> None:
        """See Steps. A step that found no room in the ring is counted and leaves a gap."""
        new, self.kv.new_groups = self.kv.new_groups, []
        if self._told is None:
            self.ring.gap = True
            steering.lose_step()
            return
        told, self._told = self._told, None
        told.describe(sequences, epoch, stats, new)
        self.outbox.put(steering, told.message)

    def send(self, steering: Steering, message: Published) -> None:
        """See Steps."""
        self.outbox.put(steering, lambda: message)

    def close(self) -> None:
        """See Steps."""
        self.outbox.close()

    def _program(self, batch: list[Generation]) -> Program:
        wanted = bucket(len(batch)), table_width(max(len(g.sequence.groups) for g in batch))
        shape = self._served(*wanted)
        if shape not in self.programs:
            inputs = StepInputs(self.device, *shape, self.kv.page_size)
            self.programs[shape] = Program(
                self.device, inputs, self._make, self._forward.compute, captures=self._captures
            )
        return self.programs[shape]

    def _served(self, rows: int, width: int) -> tuple[int, int]:
        """The shape of program for a step: a larger captured one for as long as a smaller one might soon be idle again.

        To capture takes as long as dozens of steps, and rows that are padded cost little.
        """
        self._asked[rows, width] += 1
        if (rows, width) in self.programs or self._asked[rows, width] > CAPTURE_AFTER:
            return rows, width
        fits = [s for s, p in self.programs.items() if p.captured and s[0] >= rows and s[1] >= width]
        return min(fits, default=(rows, width))

    def _make(self, inputs: StepInputs) -> DevicePass:
        return DevicePass(self.kv, self._selector, inputs, self._ahead)

    def _behind(self, program: Program, done: DevicePass, sequences: int, tell: bool) -> None:
        """Launch what the next step needs of this one."""
        self.warming = program.warming
        if not self.manager.tiered:
            return
        if self._told is not None:  # a step that failed before it was published
            self.ring.give_back(self._told)
        self._told = self.ring.take() if tell else None
        self.ring.gap |= not tell
        program.leave(done, self.ring.changes, tell=self._told is not None)
        self.warming = program.warming or (tell and not self._has_told)
        self._has_told |= tell
        if self._told is not None:
            self._told.fill(done, program.behind, sequences)

    def _tokens(self, batch: list[Generation], outcome: Outcome, answer: list[int]) -> list[int]:
        rows = outcome.logits.shape[0]
        if answer[rows]:
            raise_if_failed(self.manager.state)
        self.manager.read_counts(answer[rows + 1 :])
        return [
            answer[row] if generation.sampler.greedy else generation.sampler(outcome.logits[row])
            for row, generation in enumerate(batch)
        ]
