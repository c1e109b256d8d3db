# ruff: noqa: N803 - compile-time parameters are upper case, as everywhere in Triton
# mypy: disable-error-code="import-untyped, no-untyped-def, untyped-decorator"
"""Triton kernels of attend: a program a (lane, block of query heads, run of tokens), then a combine in run order."""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from hotset.kernels.attend.reference import Parts
from hotset.kernels.dispatch import dependent_launch, next_power_of_two

# Tokens of one run, of keys and values and of latent rows (many heads share one, so a part of a run is large).
# Fixed, so that the order of the sum depends on neither the batch nor the residency.
RUN, LATENT_RUN = 128, 256
# A run's rows are read in blocks of at most this many bytes of keys; those of latent rows in a pipeline.
BLOCK_BYTES, LATENT_BLOCK_BYTES = 32768, 65536
OPTIONS = {"num_stages": 2}


@triton.jit
def _parts(
    query,
    slots,
    slot_ids,
    valid,
    top,
    total,
    weighted,
    scale,
    row_elements,
    KV_HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    HEADS: tl.constexpr,
    K: tl.constexpr,
    PAGE: tl.constexpr,
    DIM: tl.constexpr,
    VALUE: tl.constexpr,
    MAIN: tl.constexpr,
    REST: tl.constexpr,
    LATENT: tl.constexpr,
    BLOCK: tl.constexpr,
    BLOCKS: tl.constexpr,
    RUNS: tl.constexpr,
    EARLY: tl.constexpr,
):
    lane = tl.program_id(0).to(tl.int64)
    run = tl.program_id(2)
    h = tl.program_id(1) * HEADS + tl.arange(0, HEADS)
    d = tl.arange(0, MAIN)
    head = lane * GROUP + h
    q = tl.load(query + head[:, None] * DIM + d[None, :], mask=(h < GROUP)[:, None] & (d < VALUE)[None, :], other=0.0)
    if REST > 0:
        r = tl.arange(0, REST)
        in_rest = r < DIM - VALUE
        where = query + head[:, None] * DIM + VALUE + r[None, :]
        q_rest = tl.load(where, mask=(h < GROUP)[:, None] & in_rest[None, :], other=0.0)
    best = tl.full([HEADS], float("-inf"), tl.float32)
    norm = tl.zeros([HEADS], tl.float32)
    acc = tl.zeros([HEADS, MAIN], tl.float32)
    for block in range(BLOCKS):
        token = (run * BLOCKS + block) * BLOCK + tl.arange(0, BLOCK)
        page = token // PAGE
        offset = token % PAGE
        slot = tl.load(slot_ids + lane * K + page, mask=page < K, other=-1)
        count = tl.load(valid + lane * K + page, mask=page < K, other=0)
        read = (slot >= 0) & (offset < count)
        row = slots + slot.to(tl.int64) * row_elements + offset * DIM
        inside = read[:, None] & (d < VALUE)[None, :]
        keys = tl.load(row[:, None] + d[None, :], mask=inside, other=0.0)
        logits = tl.dot(q, tl.trans(keys), input_precision="ieee")
        if REST > 0:
            rest = tl.load(row[:, None] + VALUE + r[None, :], mask=read[:, None] & in_rest[None, :], other=0.0)
            logits += tl.dot(q_rest, tl.trans(rest), input_precision="ieee")
        values = keys if LATENT else tl.load(row[:, None] + PAGE * DIM + d[None, :], mask=inside, other=0.0)
        logits = tl.where(read[None, :], logits * scale, float("-inf"))
        peak = tl.maximum(best, tl.max(logits, 1))
        base = tl.where(peak == float("-inf"), 0.0, peak)
        weight = tl.exp2(logits - base[:, None])
        keep = tl.exp2(best - base)
        norm = norm * keep + tl.sum(weight, 1)
        acc = acc * keep[:, None] + tl.dot(weight.to(values.dtype), values, input_precision="ieee")
        best = peak
    if EARLY:
        gdc_launch_dependents()
    part = head * RUNS + run
    tl.store(top + part, best, mask=h < GROUP)
    tl.store(total + part, norm, mask=h < GROUP)
    tl.store(weighted + part[:, None] * VALUE + d[None, :], acc, mask=(h < GROUP)[:, None] & (d < VALUE)[None, :])


@triton.jit
def _combine(
    top,
    total,
    weighted,
    out,
    C: tl.constexpr,
    PARTS: tl.constexpr,
    VALUE: tl.constexpr,
    BLOCK: tl.constexpr,
    STEP: tl.constexpr,
    EARLY: tl.constexpr,
):
    if EARLY:
        gdc_wait()
    head = tl.program_id(0).to(tl.int64)
    d = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    c = tl.arange(0, PARTS)
    tops = tl.load(top + head * C + c, mask=c < C, other=float("-inf"))
    best = tl.max(tops, 0)
    best = tl.where(best == float("-inf"), 0.0, best)
    norm = tl.sum(tl.load(total + head * C + c, mask=c < C, other=0.0) * tl.exp2(tops - best), 0)
    acc = tl.zeros([BLOCK], tl.float32)
    for start in tl.static_range(0, PARTS, STEP):
        s = start + tl.arange(0, STEP)
        factor = tl.exp2(tl.load(top + head * C + s, mask=s < C, other=float("-inf")) - best)
        where = weighted + (head * C + s)[:, None] * VALUE + d[None, :]
        values = tl.load(where, mask=(s < C)[:, None] & (d < VALUE)[None, :], other=0.0)
        acc += tl.sum(values * factor[:, None], 0)
    acc = acc / tl.where(norm > 0, norm, 1.0)
    tl.store(out + head * VALUE + d, acc.to(out.dtype.element_ty), mask=d < VALUE)


def parts(
    query: torch.Tensor,
    slots: torch.Tensor,
    slot_ids: torch.Tensor,
    valid: torch.Tensor,
    scale: float,
    value_dim: int,
) -> Parts:
    """Arguments as checked by the public function; one part a run of tokens."""
    batch, heads, dim = query.shape
    kv_heads, k = slot_ids.shape[1:]
    page, group = slots.shape[2], heads // kv_heads
    latent = slots.shape[1] == 1
    main = max(16, next_power_of_two(value_dim))
    run = LATENT_RUN if latent else RUN
    block_bytes = LATENT_BLOCK_BYTES if latent else BLOCK_BYTES
    block = max(16, min(run, block_bytes // (main * query.element_size())))
    runs = max(1, triton.cdiv(k * page, run))
    # Accumulators of a block of heads must fit the registers of a program.
    head_block = min(64, max(16, next_power_of_two(group)))
    shape = (batch, heads, runs)
    top = torch.empty(shape, dtype=torch.float32, device=query.device)
    total = torch.empty_like(top)
    weighted = torch.empty(*shape, value_dim, dtype=torch.float32, device=query.device)
    _parts[(batch * kv_heads, triton.cdiv(group, head_block), runs)](
        query, slots, slot_ids, valid, top, total, weighted, scale / math.log(2), slots.stride(0),
        KV_HEADS=kv_heads, GROUP=group, HEADS=head_block, K=k, PAGE=page, DIM=dim, VALUE=value_dim, MAIN=main,
        REST=max(16, next_power_of_two(dim - value_dim)) if dim > value_dim else 0,
        LATENT=latent, BLOCK=block, BLOCKS=run // block, RUNS=runs, EARLY=dependent_launch(query),
        num_warps=8 if main > 128 else 4, **OPTIONS,
    )  # fmt: skip
    return top, total, weighted


def combine(partials: list[Parts], dtype: torch.dtype) -> torch.Tensor:
    """Merge parts in the order given: [B, Hq, Dv] of `dtype`."""
    top, total, weighted = partials[0]
    if len(partials) > 1:
        top, total, weighted = (torch.cat([p[i] for p in partials], 2) for i in range(3))
    batch, heads, count, value_dim = weighted.shape
    out = torch.empty(batch, heads, value_dim, dtype=dtype, device=top.device)
    padded = next_power_of_two(count)
    early = len(partials) == 1 and dependent_launch(out)
    block = min(128, next_power_of_two(value_dim))
    _combine[(batch * heads, triton.cdiv(value_dim, block))](
        top, total, weighted, out,
        C=count, PARTS=padded, VALUE=value_dim, BLOCK=block, STEP=min(16, padded), EARLY=early, num_warps=4,
        **({"launch_pdl": True} if early else {}),
    )  # fmt: skip
    return out
