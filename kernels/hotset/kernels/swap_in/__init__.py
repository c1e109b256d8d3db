"""swap_in: copy rows named on the device between pinned host memory and device memory, either way."""

from __future__ import annotations

import torch

from hotset.kernels.dispatch import require, require_tensor, use_kernel
from hotset.kernels.swap_in import reference

__all__ = ["SMS", "rows_of", "stamp", "swap_in"]

SMS = 8
"""Streaming multiprocessors that a copy may hold; fewer leave more to what runs beside it."""


def swap_in(
    src: torch.Tensor,
    dst: torch.Tensor,
    src_index: torch.Tensor,
    dst_index: torch.Tensor,
    count: torch.Tensor,
    *,
    frame_of: torch.Tensor | None = None,
    sms: int = SMS,
    clock: torch.Tensor | None = None,
    early: bool = True,
) -> None:
    """Copy row `src_index[i]` of `src` to row `dst_index[i]` of `dst` for every i below `count`.

    src: [F, R] uint8; dst: [S, R] uint8; R a multiple of 4 (of 16 for full speed). On CUDA either may be pinned
    host memory, which the kernel reads or writes over the host link. src_index, dst_index: [m] int32; count: [1]
    int32 on the device, at most m counts. With `frame_of` ([P] int32) the source row is `frame_of[src_index[i]]`.
    Entries whose source or destination is negative are skipped; destinations must be distinct. Nothing waits
    for the host, so a captured graph may hold it. The same op seals (device to pinned) and prefetches.
    `clock` ([2] int64, zeros): on CUDA, when anything is copied, the GPU's time in nanoseconds at which the copy began
    and ended is written there. `early`: it may be launched while its predecessor on the stream still runs.
    Raises ValueError on arguments that do not fit.
    """
    _require_rows("src", src)
    _require_rows("dst", dst)
    require(src.shape[1] == dst.shape[1], f"rows differ: {src.shape[1]} bytes against {dst.shape[1]}")
    require(src.shape[1] % 4 == 0, f"rows of {src.shape[1]} bytes are not a multiple of 4")
    require_tensor("src_index", src_index, (None,), torch.int32)
    require_tensor("dst_index", dst_index, tuple(src_index.shape), torch.int32, like=src_index)
    require_tensor("count", count, (1,), torch.int32, like=src_index)
    if frame_of is not None:
        require_tensor("frame_of", frame_of, (None,), torch.int32, like=src_index)
    require(1 <= sms <= 132, f"sms must lie in 1..132, not {sms}")
    if clock is not None:
        require_tensor("clock", clock, (2,), torch.int64, like=src_index)
    if src_index.numel() == 0:
        return
    if use_kernel(src_index):
        _require_reachable("src", src, src_index)
        _require_reachable("dst", dst, src_index)
        from hotset.kernels.swap_in import kernel

        kernel.launch(src, dst, src_index, dst_index, count, frame_of, sms, clock, early)
    else:
        reference.swap_in(src, dst, src_index, dst_index, count, frame_of)


def stamp(when: torch.Tensor) -> None:
    """On CUDA, write the time that `clock` of swap_in has to `when` ([1] int64), in stream order.

    Raises ValueError on a tensor that does not fit.
    """
    require_tensor("when", when, (1,), torch.int64)
    if use_kernel(when):
        from hotset.kernels.swap_in import kernel

        kernel.stamp(when)


def rows_of(pool: torch.Tensor) -> torch.Tensor:
    """A pool [S, ...] as rows of bytes [S, R] uint8 over the same memory."""
    return pool.view(pool.shape[0], -1).view(torch.uint8)


def _require_rows(name: str, rows: torch.Tensor) -> None:
    require_tensor(name, rows, (None, None), torch.uint8)


def _require_reachable(name: str, rows: torch.Tensor, index: torch.Tensor) -> None:
    reachable = rows.device == index.device or (index.is_cuda and rows.device.type == "cpu" and rows.is_pinned())
    require(reachable, f"{name} is on {rows.device} and not pinned, so {index.device} cannot reach it")
