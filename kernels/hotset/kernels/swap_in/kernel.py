# ruff: noqa: N803 - compile-time parameters are upper case, as everywhere in Triton
# mypy: disable-error-code="import-untyped, no-untyped-def, untyped-decorator"
"""Triton kernel of swap_in: a few persistent programs of many threads, each moving words of 16 bytes.

The rows are one stream of words, cut in tiles that the programs take in turns: so a small list is spread over
all programs, and a row of any length keeps every thread busy. A tile puts 16 KiB in flight a program, more
than latency times bandwidth of the link over the whole grid.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_wait, globaltimer

from hotset.kernels.dispatch import dependent_launch

THREADS = 1024


@triton.jit(do_not_specialize=["capacity"])
def _swap_in(
    src,
    dst,
    src_index,
    dst_index,
    count,
    frame_of,
    clock,
    capacity,
    ROW: tl.constexpr,
    WIDE: tl.constexpr,
    TILE: tl.constexpr,
    MAPPED: tl.constexpr,
    EARLY: tl.constexpr,
    TIMED: tl.constexpr,
):
    if EARLY:
        # Launched while the op that writes the list still runs.
        gdc_wait()
    # ROW in elements of src; a word is WIDE elements, read and written by one thread at once.
    words_a_row: tl.constexpr = ROW // WIDE
    rows = tl.minimum(tl.load(count), capacity)
    words = rows.to(tl.int64) * words_a_row
    lane = tl.arange(0, WIDE)
    start = tl.program_id(0).to(tl.int64) * TILE
    works = start < words
    if TIMED:  # noqa: SIM102 - known when it compiles, the inner one is not
        # Program 0 has the first tile, and a program without one leaves the clock alone.
        if works & (start == 0):
            tl.store(clock, globaltimer())
    while start < words:
        w = start + tl.arange(0, TILE)
        i = w // words_a_row
        inside = w < words
        source = tl.load(src_index + i, mask=inside, other=-1)
        target = tl.load(dst_index + i, mask=inside, other=-1).to(tl.int64)
        if MAPPED:
            source = tl.load(frame_of + source, mask=source >= 0, other=-1)
        source = source.to(tl.int64)
        column = (w % words_a_row) * WIDE
        copied = ((source >= 0) & (target >= 0))[:, None]
        data = tl.load(src + (source * ROW + column)[:, None] + lane[None, :], mask=copied)
        tl.store(dst + (target * ROW + column)[:, None] + lane[None, :], data, mask=copied)
        start += tl.num_programs(0) * TILE
    if TIMED:  # noqa: SIM102
        if works:
            # Not before all threads have stored what they copied.
            tl.debug_barrier()
            tl.atomic_max(clock + 1, globaltimer(), sem="relaxed")


@triton.jit
def _stamp(when, TIMED: tl.constexpr):
    if TIMED:
        tl.store(when, globaltimer())


def stamp(when: torch.Tensor) -> None:
    """Arguments as checked by the public function."""
    _stamp[(1,)](when, TIMED=not triton.knobs.runtime.interpret, num_warps=1)


def launch(
    src: torch.Tensor,
    dst: torch.Tensor,
    src_index: torch.Tensor,
    dst_index: torch.Tensor,
    count: torch.Tensor,
    frame_of: torch.Tensor | None,
    sms: int,
    clock: torch.Tensor | None,
    early: bool,
) -> None:
    """Arguments as checked by the public function."""
    row = src.shape[1]
    aligned = (row | src.data_ptr() | dst.data_ptr()) % 16 == 0
    element, wide = (torch.int64, 2) if aligned else (torch.int32, 1)
    early = early and dependent_launch(src_index)
    _swap_in[(sms,)](
        src.view(element), dst.view(element), src_index, dst_index, count,
        src_index if frame_of is None else frame_of, src_index if clock is None else clock, src_index.numel(),
        ROW=row // element.itemsize, WIDE=wide, TILE=THREADS, MAPPED=frame_of is not None, EARLY=early,
        TIMED=clock is not None and not triton.knobs.runtime.interpret, num_warps=THREADS // 32,
        **({"launch_pdl": True} if early else {}),
    )  # fmt: skip
