# ruff: noqa: N803 - compile-time parameters are upper case, as everywhere in Triton
# mypy: disable-error-code="import-untyped, no-untyped-def, untyped-decorator"
"""Triton kernel of record: a program a lane."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import triton
import triton.language as tl

from hotset.kernels.dispatch import next_power_of_two
from hotset.protos.heat import DECAY
from hotset.protos.heat import FLOOR as _FLOOR
from hotset.protos.messages import AccessFlag

if TYPE_CHECKING:
    from hotset.kernels.record import Accessed, Recorded

FLOOR = tl.constexpr(_FLOOR)
WEIGHT = tl.constexpr((1 - DECAY) / DECAY)
SELECTED, HIT, PREFETCHED = (tl.constexpr(int(flag)) for flag in AccessFlag)


@triton.jit(do_not_specialize=["longest", "batch"])
def _record(
    ids, scores, hit, prefetched, groups_of, average, counts, out_ids, out_scores, out_flags, longest,
    batch, LAYERS: tl.constexpr, HEADS: tl.constexpr, N: tl.constexpr, K: tl.constexpr,
    BLOCK: tl.constexpr, MARGIN: tl.constexpr, WRITE: tl.constexpr,
):  # fmt: skip
    lane = tl.program_id(0).to(tl.int64)
    head = lane % HEADS
    row = (lane // HEADS) % batch
    layer = lane // (HEADS * batch)
    j = tl.arange(0, BLOCK)
    page = tl.load(ids + lane * N + j, mask=j < N, other=-1)
    there = page >= 0
    selected = there & (j < K)
    score = tl.load(scores + lane * N + j, mask=j < N, other=0)
    found = selected & (tl.load(hit + lane * K + j, mask=selected, other=0) != 0)
    first = selected & (tl.load(prefetched + lane * K + j, mask=selected, other=0) != 0)
    tl.atomic_add(counts, tl.sum(selected.to(tl.int64)), sem="relaxed")
    tl.atomic_add(counts + 1, tl.sum(found.to(tl.int64)), sem="relaxed")
    tl.atomic_add(counts + 2, tl.sum(first.to(tl.int64)), sem="relaxed")
    heat = score.to(tl.float32)
    if MARGIN:
        best = tl.max(tl.where(there & (j >= K), heat, 0.0), 0)
        heat = tl.maximum(FLOOR + heat - best, tl.where(selected, FLOOR, 0.0))
    group = tl.load(groups_of + row * longest + page, mask=there, other=0).to(tl.int64)
    at = average + group * (LAYERS * HEADS) + layer * HEADS + head
    tl.store(at, tl.load(at, mask=there, other=0.0) + WEIGHT * heat, mask=there)
    if WRITE:
        wire = ((row * LAYERS + layer) * HEADS + head) * N + j
        flags = selected.to(tl.int32) * SELECTED + found.to(tl.int32) * HIT + first.to(tl.int32) * PREFETCHED
        tl.store(out_ids + wire, page, mask=j < N)
        tl.store(out_scores + wire, score, mask=j < N)
        tl.store(out_flags + wire, flags.to(tl.uint8), mask=j < N)


def launch(step: Accessed, average: torch.Tensor, counts: torch.Tensor, by_margin: bool, out: Recorded | None) -> None:
    """Arguments as checked by the public function."""
    layers, batch, heads, n = step.ids.shape
    into = (step.ids, step.scores, step.scores) if out is None else (out.candidates, out.scores, out.flags)
    _record[(layers * batch * heads,)](
        step.ids, step.scores, step.hit.view(torch.uint8), step.prefetched.view(torch.uint8), step.groups_of,
        average, counts, *into, step.groups_of.shape[1],
        batch, LAYERS=layers, HEADS=heads, N=n, K=step.hit.shape[3], BLOCK=next_power_of_two(n),
        MARGIN=by_margin, WRITE=out is not None, num_warps=4,
    )  # fmt: skip
