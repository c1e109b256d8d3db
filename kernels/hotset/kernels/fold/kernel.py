# ruff: noqa: N803 - compile-time parameters are upper case, as everywhere in Triton
# mypy: disable-error-code="import-untyped, no-untyped-def, untyped-decorator"
"""Triton kernel of fold: one pass over both arrays, 12 bytes a page."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from hotset.protos.heat import CEILING as _CEILING
from hotset.protos.heat import DECAY as _DECAY
from hotset.protos.heat import EPSILON as _EPSILON

CEILING, DECAY, EPSILON = tl.constexpr(_CEILING), tl.constexpr(_DECAY), tl.constexpr(_EPSILON)
BLOCK = 2048


@triton.jit
def _fold(average, ema, total, MARGIN: tl.constexpr, BLOCK: tl.constexpr):
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    heat = tl.load(average + i, mask=i < total, other=0.0) * DECAY
    tl.store(average + i, heat, mask=i < total)
    if MARGIN:
        heat = 255.0 - 8.0 * (CEILING - tl.log2(heat + EPSILON))
    tl.store(ema + i, heat, mask=i < total)


def launch(average: torch.Tensor, ema: torch.Tensor, by_margin: bool) -> None:
    """Arguments as checked by the public function."""
    total = average.numel()
    _fold[(triton.cdiv(total, BLOCK),)](average, ema, total, MARGIN=by_margin, BLOCK=BLOCK, num_warps=8)
