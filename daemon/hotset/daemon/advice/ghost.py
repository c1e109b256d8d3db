"""A ghost of the shared pool: sampled reuse distances, from which misses for every pool size follow. Compiled.

    sample    physical pages of every s-th lane whose hash lies below a threshold, so that rate R of all pages is seen
    access    distance d = distinct sampled pages used since; histogram[log2(d / R / running)] += 1 / R
    too many  lower the threshold, or take half of the lanes; what falls out is forgotten
    decay     all counts by half in `half_life` steps

SHARDS with a fixed size: Waldspurger et al., "Efficient MRC construction with SHARDS" (FAST'15), sections 3 and 4.
Distances are kept a running sequence, because the stack that sequences share grows with their number: with n
running, a pool of S slots misses n * m(S / n) pages a step. So the curve stays valid while concurrency changes.

Lanes are chosen by the first group of a sequence's table, which those with one prefix share: whether a physical page
is sampled depends on the page alone. A page that was born in a sequence's tail is resident at its first use.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numba
import numpy as np
import numpy.typing as npt

from hotset.daemon.advice.curve import BINS, RESOLUTION, MissCurve
from hotset.daemon.state import SessionState
from hotset.protos.messages import Step

Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]
Float64 = npt.NDArray[np.float64]

COUNT, CLOCK, LIMIT, TOUCHED = range(4)
FULL = 1 << 32
SEEN, MISSED, COLD = range(3)


class Stack(NamedTuple):
    """An LRU stack of at most N pages: a Fenwick tree over times of last use, and a hash table of pages."""

    keys: Int64
    """[N] page and generation"""
    times: Int32
    """[N] when each was used last, 1 and up"""
    entry_at: Int32
    """[T] whose time it is, -1 nobody's"""
    tree: Int32
    """[T] Fenwick tree of ones at the times in use"""
    table: Int32
    """[C] entry + 1, 0 empty; a power of two"""
    histogram: Float64
    """[BINS]"""
    at: Int64
    """COUNT of entries, CLOCK, LIMIT of hashes, sampled accesses TOUCHED"""


def make_stack(pages: int) -> Stack:
    """An empty stack with room for `pages`."""
    cells = 1 << math.ceil(math.log2(4 * pages))
    return Stack(
        np.zeros(pages, np.int64), np.zeros(pages, np.int32), np.full(4 * pages + 1, -1, np.int32),
        np.zeros(4 * pages + 1, np.int32), np.zeros(cells, np.int32), np.zeros(BINS),
        np.array([0, 0, FULL, 0], np.int64),
    )  # fmt: skip


@numba.njit(cache=True, nogil=True, inline="always")  # type: ignore[untyped-decorator, unused-ignore]
def mix(key: int) -> Any:
    """64 well mixed bits: the finaliser of splitmix64."""
    h = np.uint64(key) * np.uint64(0x9E3779B97F4A7C15)
    h = (h ^ (h >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    h = (h ^ (h >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return h ^ (h >> np.uint64(31))


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator, unused-ignore]
def mix_all(keys: Any) -> Any:
    """`mix` of each of `keys` ([n] int64): [n] uint64."""
    mixed = np.empty(keys.size, np.uint64)
    for i in range(keys.size):
        mixed[i] = mix(keys[i])
    return mixed


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator, unused-ignore]
def _insert(stack: Stack, entry: int) -> None:
    mask = stack.table.size - 1
    cell = np.int64(mix(stack.keys[entry]) & np.uint64(mask))
    while stack.table[cell]:
        cell = (cell + 1) & mask
    stack.table[cell] = entry + 1


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator, unused-ignore]
def _add(tree: Any, time: int, change: int) -> None:
    while time < tree.size:
        tree[time] += change
        time += time & -time


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator, unused-ignore]
def _compact(stack: Stack, stride: int, phases: Any, lanes: int, dead: Any) -> None:
    """Renumber times from 1, and drop pages beyond the limit, of lanes not sampled any more, or of `dead` groups."""
    kept = 0
    keys = np.empty_like(stack.keys)
    for time in range(1, stack.at[CLOCK] + 1):
        entry = stack.entry_at[time]
        if entry < 0:
            continue
        key = stack.keys[entry]
        page = key & ((1 << 31) - 1)
        if np.int64(mix(key) >> np.uint64(32)) >= stack.at[LIMIT] or dead[page // lanes]:
            continue
        if (page % lanes - phases[page // lanes]) % stride:
            continue
        keys[kept] = key
        kept += 1
    stack.entry_at[:] = -1
    stack.tree[:] = 0
    stack.table[:] = 0
    stack.at[COUNT] = stack.at[CLOCK] = kept
    for entry in range(kept):
        stack.keys[entry] = keys[entry]
        stack.times[entry] = entry + 1
        stack.entry_at[entry + 1] = entry
        stack.tree[entry + 1] = 1
        _insert(stack, entry)
    for time in range(1, stack.tree.size):
        above = time + (time & -time)
        if above < stack.tree.size:
            stack.tree[above] += stack.tree[time]


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator, unused-ignore]
def _touch(stack: Stack, key: int, hashed: Any) -> int:
    """Use a page now: returns the distance, -1 if it is new, -2 if there is no room for it."""
    mask = stack.table.size - 1
    cell = np.int64(hashed & np.uint64(mask))
    while stack.table[cell] and stack.keys[stack.table[cell] - 1] != key:
        cell = (cell + 1) & mask
    entry = stack.table[cell] - 1
    distance = -1
    if entry < 0:
        entry = stack.at[COUNT]
        if entry == stack.keys.size:
            return -2
        stack.at[COUNT] += 1
        stack.keys[entry] = key
        stack.table[cell] = entry + 1
    else:
        time = stack.times[entry]
        before = 0
        while time:
            before += stack.tree[time]
            time &= time - 1
        distance = stack.at[COUNT] - before
        stack.entry_at[stack.times[entry]] = -1
        _add(stack.tree, stack.times[entry], -1)
    stack.at[CLOCK] += 1
    stack.times[entry] = stack.at[CLOCK]
    stack.entry_at[stack.at[CLOCK]] = entry
    _add(stack.tree, stack.at[CLOCK], 1)
    return distance


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator, unused-ignore]
def _observe(
    stack: Stack, stride: int, phases: Any, dead: Any, generations: Any, pages: Any, flags: Any, tables: Any,
    offsets: Any, fresh: Any, tails: Any, counts: Any,
) -> None:  # fmt: skip
    """One step. tables[offsets[i]:offsets[i+1]] are the groups of the i-th sequence; tails [sequences] logical pages.

    fresh [sequences]: 1 warming up (accesses are only remembered), 2 its first uses may be old, 0 counted in full.
    counts [sequences, 3] gains accesses, misses and first uses, of sampled lanes.
    """
    lanes = pages.shape[0] // max(1, offsets.size - 1)
    running = offsets.size - 1
    for i in range(running):
        size = offsets[i + 1] - offsets[i]
        if size == 0:
            continue
        for lane in range(phases[tables[offsets[i]]] % stride, lanes, stride):
            row = i * lanes + lane
            for j in range(pages.shape[1]):
                logical = pages[row, j]
                if not flags[row, j] & 1 or logical < 0 or logical >= size:
                    continue
                counts[i, SEEN] += 1
                counts[i, MISSED] += (flags[row, j] & 2) == 0
                group = tables[offsets[i] + logical]
                key = (np.int64(generations[group]) << 31) | (np.int64(group) * lanes + lane)
                hashed = mix(key)
                if np.int64(hashed >> np.uint64(32)) >= stack.at[LIMIT]:
                    continue
                if stack.at[CLOCK] + 1 >= stack.entry_at.size:
                    _compact(stack, stride, phases, lanes, dead)
                stack.at[TOUCHED] += 1
                weight = stride * FULL / stack.at[LIMIT]
                distance = _touch(stack, key, hashed)
                if distance == -2:
                    stack.at[LIMIT] = stack.at[LIMIT] * 7 // 8
                    _compact(stack, stride, phases, lanes, dead)
                elif fresh[i] != 1:
                    if distance >= 0:
                        bin_ = int(RESOLUTION * np.log2(1 + distance * weight / running))
                        stack.histogram[min(bin_, BINS - 1)] += weight
                    elif fresh[i] == 0 and logical < tails[i]:
                        counts[i, COLD] += weight


class Ghost:
    """The sampled stack of one session. `observe` costs about a nanosecond for each of `cells` candidates."""

    def __init__(
        self, lanes: int, groups: int, *, pages: int, cells: int, half_life: float, warm_steps: int, touches: int = 1024
    ) -> None:
        """`touches`: sampled accesses in a step, at most, on average."""
        self.stride = 1
        self._lanes, self._cells = lanes, cells
        self._stack = make_stack(pages)
        self._phases: Int32 = np.zeros(groups, np.int32)
        self._dead = np.zeros(groups, np.bool_)
        self._keep = 0.5 ** (1 / half_life)
        self._warm_steps, self._most_touches = warm_steps, touches
        self._since: dict[int, int] = {}
        self._enrolled: set[int] = set()
        self._cold = self._weight = self._missed = self._warmed = self._touches = 0.0
        self._new = 0.0
        self.steady = 0
        """Sequences of the last step that were beyond their warm-up."""

    @property
    def rate(self) -> float:
        """Share of all pages that is sampled."""
        return int(self._stack.at[LIMIT]) / FULL / self.stride

    def observe(self, message: Step, state: SessionState) -> None:
        """One step, after `state` has learned from it."""
        running = len(message.sequences)
        if not running:
            return
        self._fit(message.candidates.shape)
        tables = [s.groups if (s := state.sequences.get(n)) else np.empty(0, np.int32) for n in message.sequences]
        offsets = np.cumsum([0, *(len(t) for t in tables)], dtype=np.int64)
        fresh = np.array(
            [
                # Whoever has ended meanwhile must not be remembered anew.
                self._fresh(n, s) if n in state.sequences else 1
                for n, s in zip(message.sequences, message.sequence_steps.tolist(), strict=True)
            ]
        )
        self._enrol(message, tables)
        counts = np.zeros((running, 3))
        stack = self._stack
        np.multiply(stack.histogram, self._keep, out=stack.histogram)
        before = int(stack.at[TOUCHED])
        _observe(
            stack, self.stride, self._phases, self._dead, state.generations, message.candidates, message.flags,
            np.concatenate(tables), offsets, fresh, (message.lengths - 1) // state.geometry.page_size, counts,
        )  # fmt: skip
        self._count(counts, fresh)
        self._new = self._keep * self._new + np.count_nonzero(message.sequence_steps == 0)
        self._touches += 0.05 * (int(stack.at[TOUCHED]) - before - self._touches)
        if self._touches > self._most_touches:
            stack.at[LIMIT] = stack.at[LIMIT] * 7 // 8
            self._touches *= 0.875

    def forget(self, sequence: int, groups: Int32) -> None:
        """A sequence has ended, and `groups` with it."""
        self._since.pop(sequence, None)
        self._enrolled.discard(sequence)
        self._dead[groups] = True

    def curve(self) -> MissCurve:
        """Misses of a running sequence's step over its share of slots, without those of warm-ups."""
        weight = max(self._weight, 1e-9)
        return MissCurve(self._stack.histogram / weight, self._cold / weight)

    @property
    def missed(self) -> float:
        """Observed misses of a running sequence's step beyond its warm-up."""
        return self._missed / max(self._weight, 1e-9)

    @property
    def warmed(self) -> float:
        """Observed misses of warm-ups, spread over all steps of running sequences."""
        return self._warmed / max(self._weight, 1e-9)

    @property
    def warm_up(self) -> float:
        """Observed misses of one new sequence's warm-up, beyond what it would miss anyway."""
        return max(0.0, self._warmed / self._new - self._warm_steps * self.missed) if self._new > 0.01 else 0.0

    def _fit(self, shape: tuple[int, ...]) -> None:
        """Halve the lanes while there is too much to look at; they never come back, so that nothing looks new."""
        while shape[0] * shape[1] // self.stride > 2 * self._cells and self.stride < self._lanes:
            self.stride *= 2

    def _fresh(self, sequence: int, step: int) -> int:
        if step < self._warm_steps:
            self._since.setdefault(sequence, -1)
            return 1
        since = self._since.setdefault(sequence, step)
        # Joined in the middle: what it uses for the first time under our eyes may have been used before.
        return 2 if since >= 0 and step < since + 64 else 0

    def _enrol(self, message: Step, tables: list[Int32]) -> None:
        """Give groups that joined a sequence the phase of its first; now and then all, in case a message was lost."""
        joined = set(message.new_sequence.tolist())
        for number, step, table in zip(message.sequences, message.sequence_steps.tolist(), tables, strict=True):
            if not len(table) or (number in self._enrolled and number not in joined and step % 64):
                continue
            self._enrolled.add(number)
            self._dead[table] = False
            self._phases[table] = int(mix(int(table[0])) >> np.uint64(40)) % (1 << 16)

    def _count(self, counts: Float64, fresh: npt.NDArray[np.int64]) -> None:
        keep, warm = self._keep, fresh == 1
        self.steady = int(np.count_nonzero(~warm))
        self._weight = keep * self._weight + self.steady
        self._cold = keep * self._cold + counts[:, COLD].sum()
        self._missed = keep * self._missed + counts[~warm, MISSED].sum() * self.stride
        self._warmed = keep * self._warmed + counts[warm, MISSED].sum() * self.stride
