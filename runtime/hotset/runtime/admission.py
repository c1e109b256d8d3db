"""Who runs in a step, and whether somebody new may start: concurrency, pacing and grouping advice, made concrete.

Among open sequences, those that ran go on, oldest first, up to the concurrency. A free place goes to a paused
sequence before a waiting request: first to one that shares a group of the advice with a sequence that runs, else to the
one that waits longest. A lower concurrency pauses the youngest; they keep their pages, which grow cold.
Pure state without torch, so that a simulated engine runs by the same rules.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

from hotset.protos.messages import Advice


class Turn(NamedTuple):
    """What one step does: which sequences run, and how many waiting requests to admit before it."""

    run: list[int]
    admit: int


class Admission:
    """At most `limit` sequences run at once; advice may ask for fewer, and for steps between admissions.

    `places` is for the owner to set: sequences that memory has room for beside the hot set (see `hot_slots` in
    docs/runtime.md). It keeps others from starting or going on, but never pauses one that runs.
    """

    def __init__(self, limit: int) -> None:
        """Raises ValueError for a limit below 1."""
        if limit < 1:
            raise ValueError(f"at least one sequence must be able to run, not {limit}")
        self.limit = limit
        self.concurrency = limit
        self.places = limit
        self.admit_every = 1
        self.groups: list[frozenset[int]] = []
        self._since_admission: int | None = None

    def advise(self, advice: Advice) -> None:
        """Follow `advice` from the next turn on; what it leaves out is unlimited, and no more than `limit` ever run."""
        self.concurrency = min(self.limit, advice.concurrency or self.limit)
        self.admit_every = advice.admit_every or 1
        self.groups = [frozenset(group) for group in advice.groups]

    def turn(self, running: Sequence[int], paused: Sequence[int], waiting: int) -> Turn:
        """Decide the next step. `running` ran in the step before, `paused` did not; both in the order they came.

        Unless nothing is open and nobody waits, somebody runs: admission is paced only beside sequences that run.
        """
        run = list(running[: self.concurrency])
        left = [*running[self.concurrency :], *paused]
        while left and len(run) < self._most:
            run.append(left.pop(self._next(left, run)))
        self.skip()
        room = max(0, self._most - len(run))
        paced = not run or self._since_admission is None or self._since_admission >= self.admit_every
        # Unpaced, a step may fill every free place at once.
        admit = min(waiting, room if self.admit_every == 1 else min(room, 1)) if paced else 0
        if admit:
            self._since_admission = 0
        return Turn(run, admit)

    def full(self, running: int) -> bool:
        """Whether a turn changes nothing while so many go on, whoever else is paused or waits."""
        return self._most <= running <= self.concurrency

    def skip(self) -> None:
        """A turn at which those that run go on and nobody joins them."""
        if self._since_admission is not None:
            self._since_admission += 1

    @property
    def _most(self) -> int:
        return min(self.concurrency, max(self.places, 1))

    def _next(self, left: Sequence[int], run: Collection[int]) -> int:
        """Place in `left` of who should join `run`."""
        for group in self.groups:
            if group.intersection(run):
                for place, sequence in enumerate(left):
                    if sequence in group:
                        return place
        return 0
