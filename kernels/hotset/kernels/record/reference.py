"""Torch reference of record."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from hotset.protos.heat import DECAY, FLOOR
from hotset.protos.messages import AccessFlag

if TYPE_CHECKING:
    from hotset.kernels.record import Accessed, Recorded


def record(step: Accessed, average: torch.Tensor, counts: torch.Tensor, by_margin: bool, out: Recorded | None) -> None:
    """See the public function."""
    ids, (layers, _, heads, n), k = step.ids, step.ids.shape, step.hit.shape[3]
    there = ids >= 0
    selected = there & (torch.arange(n, device=ids.device) < k)
    marks = [torch.nn.functional.pad(m, (0, n - k)) & selected for m in (step.hit, step.prefetched)]
    counts[:3] += torch.stack([m.sum() for m in (selected, *marks)])
    heat = step.scores.float()
    if by_margin:
        threshold = torch.where(there & ~selected, heat, 0.0).amax(-1, keepdim=True)
        heat = (FLOOR + heat - threshold).clamp(min=0)
        heat = torch.where(selected, heat.clamp(min=FLOOR), heat)
    groups = torch.gather(
        step.groups_of.long()[None, :, None].expand(layers, -1, heads, -1), 3, ids.clamp(min=0).long()
    )
    lane = torch.arange(layers * heads, device=ids.device).view(layers, 1, heads, 1)
    pages = (groups * (layers * heads) + lane)[there]
    average[pages] += (1 - DECAY) / DECAY * heat[there]
    if out is not None:
        flags = torch.stack([m * int(flag) for m, flag in zip((selected, *marks), AccessFlag, strict=True)]).sum(0)
        wire = ((out.candidates, ids), (out.scores, step.scores), (out.flags, flags))
        for target, source in wire:
            target.copy_(source.transpose(0, 1))
