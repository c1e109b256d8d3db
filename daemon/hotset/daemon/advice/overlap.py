"""Who should run together: sequences that share physical pages which both of them use.

    families   page tables sorted; neighbours' common prefixes make an interval tree, whose nodes are the groups
    sketch     of a sequence's selections of shared pages: the SKETCH smallest hashes (bottom-k)
    saved      a page that m members select in a step is moved once instead of m times, when it has to be moved:
               sum of (m - 1) over the members' sketches below the least of their largest hashes, scaled up,
               times the share of selections that miss, times the bytes of a page

Only what is one page in memory saves anything, so sequences without a shared group never stand in a group, however
alike their selections are. A sequence's sketch is that of the last step that was looked at in which it ran.
Bottom-k sketches: Cohen and Kaplan, "Summarizing data using bottom-k sketches" (PODC'07).
"""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from hotset.daemon.advice.ghost import mix_all
from hotset.daemon.state import SessionState
from hotset.protos.messages import AccessFlag, Step

Int32 = npt.NDArray[np.int32]
UInt64 = npt.NDArray[np.uint64]

SKETCH = 256
MOST_GROUPS = 32
MOST_MEMBERS = 64
MOST_SEQUENCES = 1024
ALL = float(1 << 64)


class Group(NamedTuple):
    """Sequences to run together, and bytes that a step of them then need not move."""

    sequences: list[int]
    bytes_saved: int


class Overlap:
    """`groups` is what to advise, those first that save most for each further member."""

    def __init__(self, page_bytes: int) -> None:
        self.groups: list[Group] = []
        self._page_bytes = page_bytes
        self._sketches: dict[int, UInt64] = {}

    def look(self, message: Step, state: SessionState) -> None:
        """Look at who shares what now, and at the pages that this step selected."""
        tables = {n: s.groups for n, s in state.sequences.items() if len(s.groups)}
        families = families_of(tables)
        shared: dict[int, int] = {}
        for members, depth in families:
            shared.update((n, max(depth, shared.get(n, 0))) for n in members)
        self._sketches = {n: sketch for n, sketch in self._sketches.items() if n in shared}
        self._draw(message, state, shared)
        missing = _miss_share(message)
        found = [Group(members, self._saved(members, missing)) for members, _ in families]
        found = [group for group in found if group.bytes_saved > 0]
        found.sort(key=lambda g: (-g.bytes_saved / (len(g.sequences) - 1), g.sequences))
        self._replace(found[:MOST_GROUPS])

    def forget(self, sequence: int) -> None:
        """A sequence has ended."""
        self._sketches.pop(sequence, None)
        left = [Group([n for n in g.sequences if n != sequence], g.bytes_saved) for g in self.groups]
        self.groups = [group for group in left if len(group.sequences) > 1]

    def _replace(self, groups: list[Group]) -> None:
        """Keep what was said while the same sequences belong together; figures alone are no news."""
        if {tuple(g.sequences) for g in groups} != {tuple(g.sequences) for g in self.groups}:
            self.groups = groups

    def _draw(self, message: Step, state: SessionState, shared: dict[int, int]) -> None:
        lanes = state.geometry.lanes
        selected = (message.flags & AccessFlag.SELECTED) != 0
        for i, number in enumerate(message.sequences):
            if number not in shared:
                continue
            rows = slice(i * lanes, (i + 1) * lanes)
            pages = message.candidates[rows]
            lane, column = np.nonzero(selected[rows] & (pages >= 0) & (pages < shared[number]))
            groups = state.sequences[number].groups[pages[lane, column]].astype(np.int64)
            hashes = np.unique(mix_all(groups * lanes + lane))
            self._sketches[number] = hashes[:SKETCH]

    def _saved(self, members: list[int], missing: float) -> int:
        drawn = [self._sketches[n] for n in members if n in self._sketches]
        if len(drawn) < 2:
            return 0
        limit = min((float(s[-1]) + 1 for s in drawn if len(s) == SKETCH), default=ALL)
        below = np.concatenate([s[s.astype(np.float64) < limit] for s in drawn])
        twice = len(below) - len(np.unique(below))
        return round(twice * ALL / limit * missing * self._page_bytes)


def families_of(tables: dict[int, Int32]) -> list[tuple[list[int], int]]:
    """Sets of at least two sequences with a common prefix of groups, and its length; nested ones each by itself.

    The intervals of the LCP table of the sorted page tables: Abouelhoda, Kurtz and Ohlebusch, "Replacing suffix trees
    with enhanced suffix arrays" (2004), section 3.
    """
    firsts, counts = np.unique([int(t[0]) for t in tables.values()], return_counts=True)
    common = set(firsts[counts > 1].tolist())
    kin = [n for n, table in tables.items() if int(table[0]) in common][:MOST_SEQUENCES]
    kin.sort(key=lambda n: tables[n].astype(">i4").tobytes())
    depths = [_common(tables[a], tables[b]) for a, b in pairwise(kin)]
    found: dict[tuple[int, ...], int] = {}
    stack: list[tuple[int, int]] = []
    for end, depth in enumerate([*depths, 0]):
        begin = end
        while stack and stack[-1][1] > depth:
            begin, deep = stack.pop()
            found.setdefault(tuple(sorted(kin[begin : end + 1])[:MOST_MEMBERS]), deep)
        if depth and (not stack or stack[-1][1] < depth):
            stack.append((begin, depth))
    return [(list(members), depth) for members, depth in found.items()]


def _common(a: Int32, b: Int32) -> int:
    size = min(len(a), len(b))
    differs = np.flatnonzero(a[:size] != b[:size])
    return int(differs[0]) if len(differs) else size


def _miss_share(message: Step) -> float:
    """Share of the step's selections that were not resident."""
    selected = np.count_nonzero(message.flags & AccessFlag.SELECTED)
    return 1 - np.count_nonzero(message.flags & AccessFlag.HIT) / selected if selected else 0.0
