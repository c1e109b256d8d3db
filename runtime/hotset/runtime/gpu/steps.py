"""Decode steps on a device: whole passes from captured graphs, one wait a step, for its tokens.

Around a pass, in order: arrived prefetches enter; inputs go up; the pass runs; its tokens start for the host; behind
them the step is recorded, averages decay, the reserve is refilled, the events leave and a plan enters. Where it is
known who decodes next, the next pass is launched behind all that, and takes this one's tokens where they are; then the
device never waits for the host, which reads the tokens meanwhile:

    host     launch N+1 | wait | tokens of N, events, behind N+1, tails, a plan, launch N+2 | wait | ...
    device   pass N ──────────── behind N, plan ── pass N+1 ─────────────────────────────────────────── ...

A text that ends with a step leaves a row of the pass behind it that is nobody's.
"""

from __future__ import annotations

import time
from collections import Counter
from typing import NamedTuple

import torch

from hotset.kernels.resolve import raise_if_failed
from hotset.runtime.generation import Generation
from hotset.runtime.gpu.ahead import AheadFlights
from hotset.runtime.gpu.behind import leave_nothing
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
from hotset.runtime.steps import Hooks, Stats

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


class Launched(NamedTuple):
    """A pass, for whom, and what it leaves. Rows are in the order of `batch`."""

    batch: list[Generation]
    program: Program
    outcome: Outcome

    def rows(self, batch: list[Generation]) -> list[int]:
        """Of those of its batch that are left."""
        if len(batch) == len(self.batch):
            return list(range(len(batch)))
        row_of = {id(generation): row for row, generation in enumerate(self.batch)}
        return [row_of[id(generation)] for generation in batch]


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
        self._next: Launched | None = None

    @property
    def launched(self) -> bool:
        """See Steps."""
        return self._next is not None

    def run(self, batch: list[Generation], hooks: Hooks, *, epoch: int, tell: bool) -> list[int]:
        """See Steps."""
        launched, self._next = self._next or self._launch(batch, hooks, epoch), None
        program, outcome, rows = launched.program, launched.outcome, launched.rows(batch)
        answer = self.device.pinned(tuple(outcome.answer.shape), torch.int64)
        answer.copy_(outcome.answer, non_blocking=True)
        arrived = self.device.mark(Stream.DEMAND)
        self._behind(launched, dict(zip(rows, (g.sequence for g in batch), strict=True)), tell)
        self.manager.answer_plans()
        hooks.then()
        # What is sent wants the interpreter, as all that has been done here did.
        self.outbox.go()
        start = time.perf_counter()
        if self.manager.tiered:
            # Here it costs the device nothing; before the next pass the device would wait for the launch.
            self.manager.commit_prefetches()
            hooks.follow(epoch + 1, PATIENCE * program.seconds)
        if len(batch) == len(launched.batch) and hooks.goes_on():
            self._next = self._launch_next(batch, outcome, hooks)
        arrived.synchronize()
        self.outbox.pause()
        program.seconds = time.perf_counter() - start
        return self._tokens(batch, rows, outcome, answer.tolist())

    @torch.inference_mode()
    def drop(self) -> None:
        """See Steps. The host waits for it."""
        launched, self._next = self._next, None
        if launched is None:
            return
        if self.manager.tiered:
            leave_nothing(launched.outcome.done)
        self.device.mark(Stream.DEMAND).synchronize()

    def finish(self) -> None:
        """See Steps; `run` has launched all of it."""

    def publish(self, steering: Steering, sequences: list[Sequence], epoch: int, stats: Stats) -> None:
        """See Steps. A step that found no room in the ring is counted and leaves a gap; `sequences` it knows."""
        new, self.kv.new_groups = self.kv.new_groups, []
        if self._told is None:
            self.ring.gap = True
            steering.lose_step()
            return
        told, self._told = self._told, None
        told.describe(epoch, stats, new)
        self.outbox.put(steering, told.message)

    def send(self, steering: Steering, message: Published) -> None:
        """See Steps."""
        self.outbox.put(steering, lambda: message)

    def close(self) -> None:
        """See Steps."""
        self.outbox.close()

    def _launch(self, batch: list[Generation], hooks: Hooks, epoch: int) -> Launched:
        hooks.safe_point()
        if self._ahead is not None:
            self._ahead.settings.begin_step(epoch)
        program = self._program(batch)
        program.inputs.fill(batch, self._ahead.book if self._ahead else None)
        self._make_way(batch)
        return Launched(batch, program, program(self._ahead.shape if self._ahead else None))

    def _launch_next(self, batch: list[Generation], before: Outcome, hooks: Hooks) -> Launched | None:
        """The step behind that of the same `batch`, if it can be: with the tokens that `before` leaves on the device.

        A pass that was not captured would take the host as long as the device, and one that looks ahead has settings
        for its step.
        """
        shape = self._shape(batch)
        program = self.programs.get(self._served(shape))
        able = self.kv.config.run_ahead and self._ahead is None and all(g.sampler.greedy for g in batch)
        if not able or program is None or not program.captured:
            return None
        self._asked[shape] += 1
        self.manager.begin_step()
        hooks.safe_point()
        program.inputs.fill(batch, later=1)
        program.inputs.tokens[: len(batch), 0].copy_(before.answer[: len(batch)])
        self._make_way(batch)
        outcome = program()
        self.manager.ticks_launched = len(outcome.done.resolved)
        return Launched(batch, program, outcome)

    def _make_way(self, batch: list[Generation]) -> None:
        self.manager.make_way(len(batch) * self.kv.shape.kv_heads * self.kv.config.selected)

    def _shape(self, batch: list[Generation]) -> tuple[int, int]:
        """Rows of `batch`, and groups of a row, that a program of its own has."""
        return bucket(len(batch)), table_width(max(len(g.sequence.held) for g in batch))

    def _program(self, batch: list[Generation]) -> Program:
        wanted = self._shape(batch)
        shape = self._served(wanted)
        self._asked[wanted] += 1
        if shape not in self.programs:
            inputs = StepInputs(self.device, *shape, self.kv.page_size)
            self.programs[shape] = Program(
                self.device, inputs, self._make, self._forward.compute, captures=self._captures
            )
        return self.programs[shape]

    def _served(self, shape: tuple[int, int]) -> tuple[int, int]:
        """The shape of program for a step: a larger captured one for as long as a smaller one might soon be idle again.

        To capture takes as long as dozens of steps, and rows that are padded cost little.
        """
        if shape in self.programs or self._asked[shape] >= CAPTURE_AFTER:
            return shape
        fits = [s for s, p in self.programs.items() if p.captured and s[0] >= shape[0] and s[1] >= shape[1]]
        return min(fits, default=shape)

    def _make(self, inputs: StepInputs) -> DevicePass:
        return DevicePass(self.kv, self._selector, inputs, self._ahead)

    def _behind(self, launched: Launched, rows: dict[int, Sequence], tell: bool) -> None:
        """Launch what the next step needs of this one, of which `rows` are left."""
        program, done = launched.program, launched.outcome.done
        self.warming = program.warming
        if not self.manager.tiered:
            return
        if ended := [row for row in range(len(launched.batch)) if row not in rows]:
            done.forget(ended)
        if self._told is not None:  # a step that failed before it was published
            self.ring.give_back(self._told)
        self._told = self.ring.take() if tell else None
        self.ring.gap |= not tell
        program.leave(done, self.ring.changes, tell=self._told is not None)
        self.warming = program.warming or (tell and not self._has_told)
        self._has_told |= tell
        if self._told is not None:
            self._told.fill(done, program.behind, rows)

    def _tokens(self, batch: list[Generation], rows: list[int], outcome: Outcome, answer: list[int]) -> list[int]:
        padded = outcome.logits.shape[0]
        if answer[padded]:
            raise_if_failed(self.manager.state)
        self.manager.read_counts(answer[padded + 1 :])
        return [
            answer[row] if generation.sampler.greedy else generation.sampler(outcome.logits[row])
            for row, generation in zip(rows, batch, strict=True)
        ]
