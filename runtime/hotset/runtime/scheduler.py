"""Who is open and who runs: Admission's turns carried out on the KV cache, and what advice may ask for.

Slots are shared out like this: a running sequence pins `lanes` slots for its tail, and the hot set has the rest. With
`hot_slots` advised, slots beyond them are held, and lent to the tails of sequences that start or go on; as many may
run as the rest of the pool has tails for. A paused sequence has no slot but those of its pages that are still hot.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator

from hotset.protos.messages import Advice, Capacity
from hotset.runtime.admission import Admission
from hotset.runtime.generation import Generation, Request
from hotset.runtime.paged_kv import PagedKV


class Scheduler:
    """`shared_pages` tells how many leading pages of a prompt need no groups of their own."""

    def __init__(self, kv: PagedKV, shared_pages: Callable[[list[int]], int]) -> None:
        self.kv, self._shared_pages = kv, shared_pages
        self.admission = Admission(kv.config.running)
        self.waiting: deque[Request] = deque()
        self.running: list[Generation] = []
        self.paused: list[Generation] = []
        self.hot_slots: int | None = None
        self._sized = -1
        """Slots that the hot set was last given, or as many as there were"""
        self._selection = kv.shape.kv_heads * kv.config.selected

    @property
    def capacity(self) -> Capacity:
        """What advice has to fit into."""
        manager, most = self.kv.manager, self.admission.limit
        return Capacity(
            device=str(manager.rows.device),
            max_sequences=most,
            least_slots=most * self._selection,
            hbm_bytes=manager.state.slots * manager.page_bytes,
            sequence_bytes=self.kv.lanes * manager.page_bytes,
        )

    def advise(self, advice: Advice) -> str:
        """Follow `advice` from the next step on; returns where it had to be changed to what decoding can bear."""
        self.admission.advise(advice)
        self.kv.sharers = self.admission.concurrency
        notes = []
        if advice.concurrency and advice.concurrency > self.admission.limit:
            notes.append(f"concurrency {advice.concurrency} is more than the {self.admission.limit} that can run")
        self.hot_slots, self.admission.places = None, self.admission.limit
        if advice.hot_slots is not None:
            self._split(advice.hot_slots, advice.concurrency, notes)
        return "; ".join(notes)

    def _split(self, wanted: int, concurrency: int | None, notes: list[str]) -> None:
        """Fix the hot set's share. It bends for the sequences that were asked for, or else for those that run."""
        slots, lanes = self.kv.manager.state.slots, self.kv.lanes
        sequences = min(self.admission.limit, concurrency or max(1, len(self.running)))
        least, most = sequences * self._selection, slots - sequences * lanes
        self.hot_slots = max(least, min(wanted, most))
        if wanted < least:
            notes.append(f"hot_slots {wanted} raised to {least}, the least to decode {sequences} sequences")
        elif wanted > most:
            notes.append(f"hot_slots {wanted} lowered to {most}, which the tails of {sequences} sequences leave")
        self.admission.places = min((slots - self.hot_slots) // lanes, self.hot_slots // self._selection)

    def resize(self) -> None:
        """Between steps, once this step's tails are open: give the hot set what it was advised to have."""
        self._sized = self._wanted_slots
        if self.hot_slots is not None or self.kv.manager.hot_slots() < self.kv.manager.state.slots:
            self.kv.manager.resize(self._sized)

    def steady(self) -> bool:
        """Whether those that run now go on as they are, by all that is known: nobody comes or goes, no slot moves."""
        sized = self._sized == self._wanted_slots >= self.kv.manager.hot_slots()
        return sized and (self._all_run() or self.admission.full(len(self.running)))

    def turn(self) -> int:
        """Pause and resume sequences; returns how many waiting requests to admit now."""
        if self._all_run():
            self.admission.skip()  # as at most steps; the device waits for the answer
            return 0
        ids = [g.sequence.id for g in self.running]
        run, admit = self.admission.turn(ids, [g.sequence.id for g in self.paused], self._fitting())
        chosen = set(run)
        everybody = sorted([*self.running, *self.paused], key=lambda g: g.sequence.id)
        # Tails that go make room for tails that come.
        for generation in [g for g in self.running if g.sequence.id not in chosen]:
            self.kv.pause(generation.sequence)
        for generation in [g for g in self.paused if g.sequence.id in chosen]:
            self.kv.resume(generation.sequence)
        self.running = [g for g in everybody if g.sequence.parked is None]
        self.paused = [g for g in everybody if g.sequence.parked is not None]
        return admit

    def add(self, generation: Generation) -> None:
        """A sequence has started; it pauses at once if as many run as can."""
        if generation.sequence.parked is None and len(self.running) >= self.admission.limit:
            self.kv.pause(generation.sequence)
        (self.running if generation.sequence.parked is None else self.paused).append(generation)

    def remove(self, generation: Generation) -> None:
        """A sequence has ended."""
        (self.running if generation in self.running else self.paused).remove(generation)

    def everybody(self) -> Iterator[Generation]:
        """All open sequences."""
        return iter([*self.running, *self.paused])

    def _all_run(self) -> bool:
        return not self.paused and not self.waiting and len(self.running) <= self.admission.concurrency

    @property
    def _wanted_slots(self) -> int:
        wanted = self.kv.manager.state.slots if self.hot_slots is None else self.hot_slots
        return max(wanted, len(self.running) * self._selection)

    def _fitting(self) -> int:
        """Waiting requests, from the first on, that have room to their end beside what is open."""
        count, groups, size = 0, self.kv.groups.free_groups, self.kv.groups_for
        for open_ in self.everybody():
            longest = len(open_.prompt) + open_.max_new_tokens - 1
            groups -= max(0, size(longest) - len(open_.sequence.held))
        for request in self.waiting:
            groups -= size(request.longest) - self._shared_pages(request.prompt)
            if groups < 0 or len(self.kv.sequences) + count >= self.kv.config.max_sequences:
                break
            count += 1
        return count
