"""record: what all lanes of a step accessed, in one launch behind the last layer: flags, heat, and counts."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from hotset.kernels.dispatch import require, require_tensor, use_kernel
from hotset.kernels.record import reference

__all__ = ["ACCESSES", "HITS", "PREFETCHED_HITS", "Accessed", "Recorded", "record"]

ACCESSES, HITS, PREFETCHED_HITS = range(3)
"""Words of `counts` that record adds to."""


@dataclass(frozen=True)
class Accessed:
    """What the layers of a step left behind: L layers, B sequences (padded rows included), H KV heads."""

    ids: torch.Tensor  # [L, B, H, n] int32 logical pages, the first k selected, -1 pads
    scores: torch.Tensor  # [L, B, H, n] uint8
    hit: torch.Tensor  # [L, B, H, k] bool
    prefetched: torch.Tensor  # [L, B, H, k] bool
    groups_of: torch.Tensor  # [B, longest] int32 page table


@dataclass(frozen=True)
class Recorded:
    """Where a step's accesses go, sequence by sequence as the wire has them: [B, L, H, n] each."""

    candidates: torch.Tensor  # int32
    scores: torch.Tensor  # uint8
    flags: torch.Tensor  # uint8, AccessFlag bits


def record(
    step: Accessed, average: torch.Tensor, counts: torch.Tensor, *, by_margin: bool, out: Recorded | None = None
) -> None:
    """Add this step's heat to `average` ([P] float32; see `fold`) and count its accesses in `counts` ([3+] int64).

    Heat is the score, or the margin over the lane's best score that was not selected (see hotset.protos.heat). If two
    sequences share a page, the heat of one of them counts. With `out` the accesses are written there as well.
    Nothing waits for the host. Raises ValueError on tensors that do not fit.
    """
    require_tensor("ids", step.ids, (None, None, None, None), torch.int32, like=average)
    layers, batch, heads, n = step.ids.shape
    require_tensor("scores", step.scores, (layers, batch, heads, n), torch.uint8, like=average)
    require_tensor("hit", step.hit, (layers, batch, heads, None), torch.bool, like=average)
    require(step.hit.shape[3] <= n, f"{step.hit.shape[3]} pages selected of {n} candidates")
    require_tensor("prefetched", step.prefetched, tuple(step.hit.shape), torch.bool, like=average)
    require_tensor("groups_of", step.groups_of, (batch, None), torch.int32, like=average)
    require_tensor("average", average, (None,), torch.float32)
    require_tensor("counts", counts, (None,), torch.int64, like=average)
    if out is not None:
        wire = (batch, layers, heads, n)
        require_tensor("candidates", out.candidates, wire, torch.int32, like=average)
        require_tensor("scores", out.scores, wire, torch.uint8, like=average)
        require_tensor("flags", out.flags, wire, torch.uint8, like=average)
    if use_kernel(average) and step.ids.numel():
        from hotset.kernels.record import kernel

        kernel.launch(step, average, counts, by_margin, out)
    else:
        reference.record(step, average, counts, by_margin, out)
