"""What a step tells of itself, side by side in one piece of memory: on the device, and as a copy on the host."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from hotset.kernels.record import Recorded
from hotset.runtime.gpu.changes import Changed
from hotset.runtime.gpu.counts import COUNTS
from hotset.runtime.gpu.packing import Kind, pack
from hotset.runtime.gpu.passes import DevicePass

SPARE = 1 << 16
"""Slots that a step may change beyond one for each page it selects: what plans and ends of sequences bring about."""
_CHANGES = 4


class StepRecord:
    """A record of `kinds`, which `record_kinds` gives; `allocate` as of Device.pinned."""

    def __init__(self, kinds: Sequence[Kind], allocate: Callable[[tuple[int, ...], torch.dtype], torch.Tensor]) -> None:
        self.kinds = kinds
        self.memory, parts = pack(kinds, allocate)
        candidates, scores, flags, self.numbers, loaded, evicted, *ranks = parts
        self.accessed = Recorded(candidates, scores, flags)
        self.changed = Changed(loaded, evicted, self.numbers[:_CHANGES])
        self.counts = self.numbers[_CHANGES : _CHANGES + COUNTS]
        """the manager's"""
        self.figures = self.numbers[_CHANGES + COUNTS :]
        """by figure and layer, flat"""
        self.ranks = ranks[0] if ranks else None
        """of a pass that looks ahead"""


def record_kinds(done: DevicePass) -> list[Kind]:
    """Shapes and types of what a step like `done` tells."""
    kv, manager = done.kv, done.manager
    rows, heads, n = done.ids[0].shape
    accesses = (rows, kv.shape.layers, heads, n)
    most = min(manager.state.slots, rows * kv.lanes * kv.config.selected + SPARE)
    numbers = _CHANGES + COUNTS + manager.figures.now.numel()
    kinds: list[Kind] = [
        (accesses, torch.int32), (accesses, torch.uint8), (accesses, torch.uint8), ((numbers,), torch.int64),
        ((most,), torch.int32), ((most,), torch.int32),
    ]  # fmt: skip
    if done.ahead is None:
        return kinds
    ranks = done.ahead.ranks_by_layer
    return [*kinds, ((len(ranks), *ranks[0].shape), torch.int32)]
