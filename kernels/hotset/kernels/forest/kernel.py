# ruff: noqa: N803 - compile-time parameters are upper case, as everywhere in Triton
# mypy: disable-error-code="import-untyped, no-untyped-def, untyped-decorator"
"""Triton kernels of forest: no walk, but one interval search and one AND of leaf masks a column (see tables.py).

A walk would gather a node and a value at each of up to 30 levels of each tree, each thread elsewhere. Here threads of
a warp share a row: the masks of all trees for an interval lie side by side, so that a column of a row costs one
coalesced read of 4 bytes a tree, whatever the depth. The search is a launch of its own, a thread a value: in one
kernel, Triton repeats it in every thread that shares the row.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from hotset.kernels.forest.tables import DeviceForest
from hotset.protos.forest import EXP as _EXP
from hotset.protos.forest import SIGMOID as _SIGMOID
from hotset.protos.forest import ZERO as _ZERO

EXP, SIGMOID, ZERO = tl.constexpr(_EXP), tl.constexpr(_SIGMOID), tl.constexpr(_ZERO)
NONE = tl.constexpr(1 << 30)
# Values that a program of the search takes; masks, rows and warps of a program of the rest. To be tuned on a GPU.
SEARCHED = 512
TILE = 2048
MOST_ROWS = 64
WARPS = 4


@triton.jit(do_not_specialize=["count"])
def _find(
    rows, ends, found, count, row_stride, column_stride, BINS: tl.constexpr, STEPS: tl.constexpr, BLOCK: tl.constexpr
):
    """Interval of every value: how many of BINS - 1 ascending ends are smaller; BINS for NaN."""
    row = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    column = tl.program_id(1).to(tl.int64)
    x = tl.load(rows + row * row_stride + column * column_stride, mask=row < count, other=0.0)
    x = tl.where(tl.abs(x) <= ZERO, 0.0, x)
    place = tl.zeros([BLOCK], tl.int32)
    for s in tl.static_range(STEPS):
        # The steps are BINS / 2, BINS / 4 ... 1.
        there = ends + column * BINS + place + ((BINS >> (s + 1)) - 1)
        place += tl.where(x > tl.load(there), BINS >> (s + 1), 0)
    tl.store(found + column * count + row, tl.where(x != x, BINS, place).to(tl.int16), mask=row < count)


@triton.jit
def _lowest_bit(word):
    """Place of the lowest set bit of int32 words, NONE for 0: a power of two is told by its float's exponent."""
    power = (word & -word).to(tl.float32)
    place = ((power.to(tl.int32, bitcast=True) >> 23) & 0xFF) - 127
    return tl.where(word == 0, NONE, place)


@triton.jit(do_not_specialize=["count"])
def _remain(
    found, masks, leaves, scale, out, count,
    FEATURES: tl.constexpr, BINS: tl.constexpr, TREES: tl.constexpr, WORDS: tl.constexpr,
    TREE_BLOCK: tl.constexpr, LINK: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    there = row < count
    total = tl.zeros([ROWS], tl.float32)
    for block in tl.static_range(TREES // TREE_BLOCK):
        c = block * (TREE_BLOCK * WORDS) + tl.arange(0, TREE_BLOCK * WORDS)
        left_over = tl.full([ROWS, TREE_BLOCK * WORDS], -1, tl.int32)
        for f in range(FEATURES):
            place = tl.load(found + f * count.to(tl.int64) + row, mask=there, other=0).to(tl.int32) + f * (BINS + 1)
            left_over &= tl.load(masks + place[:, None] * (TREES * WORDS) + c[None, :])
        leaf = _lowest_bit(left_over)
        if WORDS > 1:
            places = tl.reshape(leaf, [ROWS, TREE_BLOCK, WORDS]) + (tl.arange(0, WORDS) * 32)[None, None, :]
            leaf = tl.min(places, 2)
        tree = block * TREE_BLOCK + tl.arange(0, TREE_BLOCK)
        total += tl.sum(tl.load(leaves + leaf * TREES + tree[None, :]), 1)
    total *= tl.load(scale)
    if LINK == SIGMOID:
        total = 1.0 / (1.0 + tl.exp(-total))
    if LINK == EXP:
        total = tl.exp(total)
    tl.store(out + row, total, mask=there)


def launch(model: DeviceForest, rows: torch.Tensor) -> torch.Tensor:
    """Arguments as checked by the public function."""
    plan, count = model.plan, rows.shape[0]
    found = torch.empty(plan.features, count, dtype=torch.int16, device=rows.device)
    out = torch.empty(count, dtype=torch.float32, device=rows.device)
    _find[(triton.cdiv(count, SEARCHED), plan.features)](
        rows, model.ends, found, count, rows.stride(0), rows.stride(1),
        BINS=plan.bins, STEPS=plan.bins.bit_length() - 1, BLOCK=SEARCHED, num_warps=4,
    )  # fmt: skip
    tree_block = max(1, min(plan.trees, TILE // 16 // plan.words))
    block = max(1, min(MOST_ROWS, TILE // (tree_block * plan.words)))
    _remain[(triton.cdiv(count, block),)](
        found, model.masks, model.leaves, model.scale, out, count,
        FEATURES=plan.features, BINS=plan.bins, TREES=plan.trees, WORDS=plan.words,
        TREE_BLOCK=tree_block, LINK=plan.link, ROWS=block, num_warps=WARPS,
    )  # fmt: skip
    return out
