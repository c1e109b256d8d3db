"""The simulated decode process: the step of docs/structure.md in virtual time, steered as a real one is."""

from __future__ import annotations

from collections import Counter, deque

import numpy as np

from hotset.ops.simulate import messages
from hotset.ops.simulate.inside import DeviceInside, Inside
from hotset.ops.simulate.node import Memory, Node
from hotset.ops.simulate.pool import Rules, SimPool
from hotset.ops.simulate.slots import FREE, RESERVED
from hotset.ops.simulate.tables import Accesses, Playing, Tables
from hotset.ops.simulate.tally import StepRecord, Tally
from hotset.ops.simulate.wire import Wire
from hotset.ops.simulate.workload import Request, Workload
from hotset.protos.errors import CapacityError
from hotset.protos.messages import AccessFlag, Ack, Advice, Plan, StepStats
from hotset.runtime.admission import Admission

_KEPT_TICKS = 64


class Engine:
    """Plays a workload on a node; `run` until all requests are done. `tally` holds what happened."""

    def __init__(
        self, workload: Workload, node: Node, wire: Wire | None = None, rules: Rules | None = None, *,
        decides: bool = False,
    ) -> None:  # fmt: skip
        """`decides`: also inside steps, by the model that the daemon pushes. Raises ConfigError if it cannot."""
        self.node, self.memory = node, Memory(node, workload)
        geometry = self.memory.geometry(workload)
        self.wire = wire or Wire()
        ticks = geometry.lanes * self.memory.max_sequences if rules and rules.by_lane else geometry.layers
        self.pool = SimPool(geometry, node.builtin, rules, ticks)
        self.tables = Tables(self.pool, geometry.groups)
        self.inside = DeviceInside(workload, node, self.pool) if decides else Inside()
        self.admission = Admission(self.memory.max_sequences)
        self.tally = Tally(geometry.page_bytes)
        self.now_us = 0.0
        self.epoch = 0
        self._coming = deque(workload.requests)
        self._waiting: deque[Request] = deque()
        self._ran: list[int] = []
        self._advised_slots = 0
        self._tick_of: dict[int, int] = {}
        self._rejected: Counter[str] = Counter()

    def run(self) -> Tally:
        """Play everything. Raises CapacityError if the pool cannot hold what must be resident."""
        while self.step():
            pass
        self.tally.finish(self.now_us)
        return self.tally

    def step(self) -> bool:
        """Play one step of the batch, or wait for the next request; False once all is done."""
        self._arrive()
        if not self.tables.open and not self._waiting:
            if not self._coming:
                return False
            self._wait_until(self._coming[0].arrival_us)
            return True
        self._obey()
        batch = self._admit()
        self._decode(batch)
        for playing in [p for p in batch if p.over]:
            self._close(playing)
        return True

    def _arrive(self) -> None:
        while self._coming and self._coming[0].arrival_us <= self.now_us:
            self._waiting.append(self._coming.popleft())

    def _wait_until(self, now_us: float) -> None:
        self.pool.move(self.node.carried(now_us - self.now_us, self.pool.geometry.page_bytes))
        self.pool.commit()
        self.now_us = now_us
        self.wire.safe_point(now_us)
        self._obey()

    def _admit(self) -> list[Playing]:
        """Who runs in the next step, requests included that start with it."""
        opened = self.tables.open
        room = 0
        while self.memory.fits(len(opened) + room + 1, self._advised_slots) or (not opened and not room):
            room += 1
            if room + len(opened) > self.memory.max_sequences:
                break
        paused = [number for number in opened if number not in self._ran]
        turn = self.admission.turn(self._ran, paused, min(len(self._waiting), room))
        started = [self._open(self._waiting.popleft()).number for _ in range(turn.admit)]
        # In the order of admission, so that the youngest are paused first.
        chosen = {*turn.run, *started}
        self._ran = [number for number in opened if number in chosen]
        return [opened[number] for number in self._ran]

    def _open(self, request: Request) -> Playing:
        self._share_memory(len(self.tables.open) + 1)
        playing = self.tables.begin(request, self.now_us)
        share = self.pool.limit // self.admission.concurrency // self.pool.lanes
        k = self.pool.geometry.selected
        if self.pool.rules.tails:
            warmed = self.pool.warm(self.tables.warmest(playing, min(2 * k, share)))
            self.tally.warm_pages += warmed
            self.now_us += self.node.wait_us(warmed, self.pool.geometry.page_bytes)
        self.wire.publish(messages.sequence_open(self.pool, playing))
        return playing

    def _close(self, playing: Playing) -> None:
        playing.finished_us = self.now_us
        self.tally.sequence(playing)
        self._ran.remove(playing.number)
        self.wire.publish(messages.sequence_close(playing))
        self.inside.forget(playing.number, self.tables.close(playing))
        self._share_memory(len(self.tables.open))

    def _share_memory(self, sequences: int) -> None:
        """Give the hot set what `sequences` open ones leave of the memory, and no more than was advised."""
        slots = min(self.memory.most_slots, self.memory.left_for_slots(max(1, sequences)))
        slots = max(min(slots, self._advised_slots or slots), self.memory.least_slots(max(1, sequences)))
        if slots != self.pool.limit:
            self.pool.resize(min(slots, self.memory.most_slots))

    def _decode(self, batch: list[Playing]) -> None:
        start, pool, inside = self.now_us, self.pool, self.inside
        pool.begin_step()
        inside.obey(self.wire, self.epoch)
        before = self.tables.written_pages
        for playing in batch:
            self.tables.begin_token(playing)
        done = self.tables.accesses(batch)
        layer_us = self.node.compute_us(len(batch)) / pool.geometry.layers
        inside.begin(batch)
        stall_us, misses, cold, prefetched, ahead = 0.0, 0, 0, 0, 0
        for layer in range(pool.geometry.layers):
            prefetched += self._safe_point()
            ahead += inside.look(layer)
            late = inside.land(layer)
            missed, filled = self._resolve(batch, done, layer)
            wait_us = self.node.wait_us(missed + late, pool.geometry.page_bytes)
            inside.waited(layer, missed, late, wait_us)
            stall_us, misses, cold = stall_us + wait_us, misses + missed, cold + filled
            busy_us = layer_us + inside.layer_us(layer)
            self.now_us += wait_us + busy_us
            pool.move(self.node.carried(busy_us, pool.geometry.page_bytes))
        for playing in batch:
            self.tables.end_token(playing)
        inside.settle(batch, done, self.now_us - start)
        pool.end_step(done.physical, done.scores, done.selected)
        self._tick_of[self.epoch] = pool.tick
        self._tick_of.pop(self.epoch - _KEPT_TICKS, None)
        record = StepRecord(
            start_us=start, step_us=self.now_us - start, stall_us=stall_us, running=len(batch),
            waiting=len(self._waiting), paused=len(self.tables.open) - len(batch), demand_pages=misses,
            cold_fills=cold, prefetch_pages=prefetched + ahead, ahead_pages=ahead,
            prefetched_hits=int(np.count_nonzero(done.flags & AccessFlag.PREFETCHED)),
            written_pages=self.tables.written_pages - before, hot_slots=pool.limit,
            concurrency=self.admission.concurrency,
        )  # fmt: skip
        self.tally.step(record, done)
        self._publish(batch, done, record)
        self.epoch += 1

    def _resolve(self, batch: list[Playing], done: Accesses, layer: int) -> tuple[int, int]:
        """Give a layer's selection its slots; returns demand misses, and pages that do not count as such."""
        heads = self.pool.geometry.kv_heads
        first, end = layer * heads, (layer + 1) * heads
        if not self.pool.rules.by_lane:
            return self.pool.resolve(done.physical, done.selected, done.flags, first, end), 0
        missed = cold = 0
        for i, playing in enumerate(batch):
            one = slice(i, i + 1)
            for lane in range(first, end):
                count = self.pool.resolve(done.physical[one], done.selected[one], done.flags[one], lane, lane + 1)
                missed, cold = (missed, cold + count) if playing.steps == 0 else (missed + count, cold)
        return missed, cold

    def _safe_point(self) -> int:
        """Take in what has arrived; returns the pages of prefetches that a plan began."""
        self.tally.wasted_pages += self.pool.commit()
        self.wire.safe_point(self.now_us)
        plan = self.wire.take_plan()
        return 0 if plan is None else self._apply(plan)

    def _obey(self) -> None:
        advice = self.wire.take_advice()
        if advice is None:
            return
        self.admission.advise(advice)
        self._follow_slots(advice)
        self.tally.advised(self.epoch, self.now_us, advice)
        self.wire.publish(Ack(of="advice", number=advice.number, accepted=True))

    def _follow_slots(self, advice: Advice) -> None:
        before, self._advised_slots = self._advised_slots, advice.hot_slots or 0
        try:
            self._share_memory(len(self.tables.open))
        except CapacityError:
            # What is pinned or in flight is in the way; the next change of memory tries again.
            self._advised_slots = before

    def _apply(self, plan: Plan) -> int:
        seen = self._tick_of.get(plan.epoch)
        if seen is None or plan.deadline < self.epoch:
            reason, entries = "late" if seen is not None else "unknown_epoch", len(plan.pages) + len(plan.prefetch)
            self._rejected[reason] += entries
            self.tally.plans_late += 1
            self.wire.publish(
                Ack(of="plan", number=plan.number, accepted=False, rejected={reason: entries}, reason=reason)
            )
            return 0
        flying = sum(len(flight.pages) for flight in self.pool.flights)
        until = seen + self.node.plan_lifetime * self.pool.geometry.layers
        applied, rejected = self.pool.apply_plan(plan, epoch_tick=seen, until_tick=until)
        self._rejected.update(rejected)
        self.tally.plans_applied += 1
        self.tally.plans_learned += plan.source == "learned"
        self.tally.entries_applied += applied
        self.tally.plan_age_steps += self.epoch - plan.epoch
        self.wire.publish(Ack(of="plan", number=plan.number, accepted=True, applied=applied, rejected=dict(rejected)))
        return sum(len(flight.pages) for flight in self.pool.flights) - flying

    def _publish(self, batch: list[Playing], done: Accesses, record: StepRecord) -> None:
        if not self.wire.attached:
            self.tables.new_groups.clear()
            return
        stats = StepStats(
            step_us=round(record.step_us), stall_us=round(record.stall_us), demand_pages=record.demand_pages,
            prefetch_pages=record.prefetch_pages, moved_bytes=record.moved_pages * self.pool.geometry.page_bytes,
            written_pages=record.written_pages, waiting=record.waiting, paused=record.paused,
            hot_slots=record.hot_slots, reserve=self.pool.count(RESERVED), free=self.pool.count(FREE),
            steps_dropped=self.wire.steps_dropped, plans_applied=self.tally.plans_applied,
            entries_applied=self.tally.entries_applied, entries_rejected=dict(self._rejected),
            device_model=self.inside.version,
        )  # fmt: skip
        self.wire.publish(messages.step_message(self.tables, batch, done, self.epoch, stats, self.inside))
        if self.wire.snapshot_wanted():
            self.wire.publish(messages.snapshot(self.tables, self.epoch))
        self.wire.end_step(self.epoch)
        self.wire.safe_point(self.now_us)
