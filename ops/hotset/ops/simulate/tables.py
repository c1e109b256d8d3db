"""The open sequences of a simulated node: their groups, tails and places in the recording, as PagedKV keeps them."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numba import njit

from hotset.ops.simulate.pool import SimPool
from hotset.ops.simulate.slots import Bool, Int32, Int64, UInt8
from hotset.ops.simulate.workload import Request
from hotset.runtime.groups import GroupTable


@dataclass
class Playing:
    """One open sequence. `row` is the recorded step that it plays next."""

    request: Request
    row: int
    length: int
    admitted_us: float
    parent: int | None = None
    groups: list[int] = field(default_factory=list)
    has_tail: bool = False
    steps: int = 0
    finished_us: float = 0.0

    @property
    def number(self) -> int:
        """Its number on the wire."""
        return self.request.number

    @property
    def over(self) -> bool:
        """Whether it has played all its steps."""
        return self.steps == self.request.steps


@dataclass(frozen=True)
class Accesses:
    """What a step's batch touches; arrays are [sequences, lanes, n]."""

    pages: Int32
    physical: Int32
    scores: UInt8
    selected: Bool
    flags: UInt8


class Tables:
    """Page tables over `groups` groups; every change of residency goes through `pool`."""

    def __init__(self, pool: SimPool, groups: int) -> None:
        self.pool = pool
        self.groups = GroupTable(groups)
        self.open: dict[int, Playing] = {}
        self.new_groups: list[tuple[int, int, int]] = []
        self.written_pages = 0
        self._size = pool.geometry.page_size

    def begin(self, request: Request, now_us: float) -> Playing:
        """Open a sequence whose prompt is in the host tier. Raises CapacityError if its tail finds no slots."""
        playing = Playing(request, request.first, request.prompt_tokens, now_us)
        self._share_prefix(playing)
        full = playing.length // self._size
        while len(playing.groups) < full:
            self.pool.seal(self._allocate(playing), resident=False)
        if playing.length % self._size:
            self._open_tail(playing)
        self.open[request.number] = playing
        return playing

    def begin_token(self, playing: Playing) -> None:
        """Make room for the next recorded token: the first of a page opens a tail."""
        playing.length = int(playing.request.trace.lengths[playing.row])
        while len(playing.groups) < -(-playing.length // self._size):
            self._seal_tail(playing)
            self._open_tail(playing)
            group = playing.groups[-1]
            self.new_groups.append((playing.number, group, int(self.pool.s.generation[group])))

    def end_token(self, playing: Playing) -> None:
        """The token is written: seal the tail if it is full now."""
        if playing.length % self._size == 0:
            self._seal_tail(playing)
        playing.row += 1
        playing.steps += 1

    def close(self, playing: Playing) -> list[int]:
        """End a sequence; groups that nobody else holds are freed, and returned."""
        del self.open[playing.number]
        freed = self.groups.release(playing.groups)
        self.pool.free(freed)
        self.new_groups = [new for new in self.new_groups if new[0] != playing.number]
        return freed

    def accesses(self, batch: list[Playing]) -> Accesses:
        """The recorded candidates of the batch's next steps, by physical page."""
        lanes, n = self.pool.lanes, self.pool.geometry.candidates
        pages = np.full((len(batch), lanes, n), -1, np.int32)
        scores, selected = np.zeros(pages.shape, np.uint8), np.zeros(pages.shape, np.bool_)
        groups = np.full((len(batch), max(len(p.groups) for p in batch)), -1, np.int32)
        for i, playing in enumerate(batch):
            trace, row = playing.request.trace, playing.row
            lane = turned(playing.request, lanes, self.pool.geometry.kv_heads)
            width = trace.pages.shape[2]
            pages[i, :, :width] = trace.pages[row][lane]
            scores[i, :, :width] = trace.scores[row][lane]
            selected[i, :, :width] = trace.selected[row][lane]
            groups[i, : len(playing.groups)] = playing.groups
        return Accesses(pages, physical_pages(groups, pages), scores, selected, selected.astype(np.uint8))

    def warmest(self, playing: Playing, count: int) -> Int32:
        """The `count` best recorded candidates of each lane at the sequence's first step, best first, by layer.

        Stands for what the runtime's prompt selects with its last query.
        """
        step = self.accesses([playing])
        inside = (step.pages[0] >= 0) & (step.pages[0] < playing.length // self._size)
        rank = np.where(inside, step.scores[0].astype(np.int32) + 256 * step.selected[0], -1)
        best = np.argsort(-rank, axis=1, kind="stable")[:, :count]
        pages: Int32 = np.take_along_axis(step.physical[0], best, 1)[np.take_along_axis(inside, best, 1)]
        return pages

    def tails(self) -> list[int]:
        """Groups that are pinned."""
        return [playing.groups[-1] for playing in self.open.values() if playing.has_tail]

    def _share_prefix(self, playing: Playing) -> None:
        request = playing.request
        for other in self.open.values() if request.prefix_pages else ():
            if other.request.source == request.source:
                shared = other.groups[: request.prefix_pages]
                self.groups.share(shared)
                playing.groups, playing.parent = list(shared), other.number
                return

    def _allocate(self, playing: Playing) -> int:
        group = self.groups.allocate()
        playing.groups.append(group)
        return group

    def _open_tail(self, playing: Playing) -> None:
        group = self._allocate(playing)
        if self.pool.rules.tails:
            self.pool.open_tail(group)
            playing.has_tail = True
        else:
            self.pool.seal(group, resident=False)

    def _seal_tail(self, playing: Playing) -> None:
        if playing.has_tail:
            self.pool.seal(playing.groups[-1], resident=True)
            self.written_pages += self.pool.lanes
            playing.has_tail = False


def turned(request: Request, lanes: int, heads: int) -> Int64:
    """The recorded lane that each lane of a copy plays, [lanes]."""
    played: Int64 = (np.arange(lanes) + request.turn * heads) % lanes
    return played


@njit(cache=True)
def physical_pages(groups: Int32, pages: Int32) -> Int32:
    """Physical pages of logical `pages` [sequences, lanes, n] in page tables `groups` [sequences, m]; padding stays."""
    out = np.full(pages.shape, -1, np.int32)
    for b in range(pages.shape[0]):
        for lane in range(pages.shape[1]):
            for i in range(pages.shape[2]):
                if 0 <= pages[b, lane, i] < groups.shape[1]:
                    out[b, lane, i] = groups[b, pages[b, lane, i]] * pages.shape[1] + lane
    return out
