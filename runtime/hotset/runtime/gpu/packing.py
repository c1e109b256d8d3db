"""Several tensors side by side in one piece of memory, which one copy moves for what each of theirs would cost."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch

_ALIGNED = 16
"""bytes; kernels are compiled anew for data that is aligned to less"""
Kind = tuple[tuple[int, ...], torch.dtype]
"""Shape and type"""


def pack(
    kinds: Sequence[Kind], allocate: Callable[[tuple[int, ...], torch.dtype], torch.Tensor]
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Memory for tensors of `kinds`, [bytes] uint8 of `allocate`, and the tensors: views of it."""
    memory = allocate((sum(map(_room, kinds)),), torch.uint8)
    return memory, unpack(memory, kinds)


def unpack(memory: torch.Tensor, kinds: Sequence[Kind]) -> list[torch.Tensor]:
    """The tensors in `memory`, or in a copy of it, that `pack` laid out."""
    views, begin = [], 0
    for kind in kinds:
        shape, dtype = kind
        views.append(memory[begin : begin + _bytes(kind)].view(dtype).view(shape))
        begin += _room(kind)
    return views


def _bytes(kind: Kind) -> int:
    shape, dtype = kind
    return math.prod(shape) * dtype.itemsize


def _room(kind: Kind) -> int:
    return -(-_bytes(kind) // _ALIGNED) * _ALIGNED
