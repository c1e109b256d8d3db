"""Groups: what sequences allocate, share and free. One group holds a logical page of all lanes (see messages.py)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import torch

from hotset.protos.errors import CapacityError


@dataclass
class Sequence:
    """One generation: its groups in logical order, the last one the tail unless `length` fills it.

    While it is paused, `parked` holds its tail's rows [lanes, 2, page_size, D] (none if it has no tail) on the host.
    """

    id: int
    prompt_tokens: int
    length: int = 0
    step: int = 0
    clock: int = 0
    """steps that an older sequence had counted, whose pages this one began with"""
    groups: list[int] = field(default_factory=list)
    parent: int | None = None
    parked: torch.Tensor | None = None
    next_group: int | None = None
    """not yet in `groups`: its tail is open already, for the token that comes next"""

    @property
    def held(self) -> list[int]:
        """All groups that it holds a reference on."""
        return self.groups if self.next_group is None else [*self.groups, self.next_group]


class GroupTable:
    """Reference counts of `capacity` groups. A sequence that forks another holds one reference more on each."""

    def __init__(self, capacity: int) -> None:
        self.references = [0] * capacity
        self._free = list(range(capacity - 1, -1, -1))

    @property
    def free_groups(self) -> int:
        """Groups that allocate can still give."""
        return len(self._free)

    def allocate(self) -> int:
        """Take a group with one reference. Raises CapacityError if none is left."""
        if not self._free:
            raise CapacityError(
                f"all {len(self.references)} page groups are in use; raise --max-tokens or close a sequence"
            )
        group = self._free.pop()
        self.references[group] = 1
        return group

    def share(self, groups: Iterable[int]) -> None:
        """Add one reference to each group. Raises ValueError for a free one."""
        for group in groups:
            if self.references[group] < 1:
                raise ValueError(f"group {group} is free and cannot be shared")
            self.references[group] += 1

    def release(self, groups: Iterable[int]) -> list[int]:
        """Drop one reference from each group; return those that are free now. Raises ValueError for a free one."""
        freed = []
        for group in groups:
            if self.references[group] < 1:
                raise ValueError(f"group {group} is free already")
            self.references[group] -= 1
            if self.references[group] == 0:
                freed.append(group)
        self._free.extend(freed)
        return freed

    def check_integrity(self, sequences: Iterable[Sequence]) -> None:
        """Raise AssertionError unless the reference counts are what `sequences` hold."""
        counted = [0] * len(self.references)
        for sequence in sequences:
            for group in sequence.held:
                counted[group] += 1
        assert counted == self.references, "reference counts differ from the sequences' groups"
        assert sorted(self._free) == [g for g, n in enumerate(counted) if n == 0], "free list is off"
