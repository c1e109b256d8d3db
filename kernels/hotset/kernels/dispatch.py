"""Which implementation of an op runs, and the checks that every op makes on its arguments.

CPU tensors go to the torch reference, CUDA tensors to the Triton kernel. A test may ask for the kernel on
CPU tensors inside `interpreting()`; Triton must then have been imported with TRITON_INTERPRET=1.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch

_interpret: ContextVar[bool] = ContextVar("interpret", default=False)


@contextmanager
def interpreting() -> Iterator[None]:
    """Within this context, ops run their Triton kernels on CPU tensors too, in Triton's interpreter."""
    token = _interpret.set(True)
    try:
        yield
    finally:
        _interpret.reset(token)


def use_kernel(tensor: torch.Tensor) -> bool:
    """Whether the op whose result lives beside `tensor` runs its Triton kernel."""
    return tensor.is_cuda or _interpret.get()


def interpreted() -> bool:
    """Whether kernels run one program after the other, so that no program may wait for another."""
    return _interpret.get()


def dependent_launch(tensor: torch.Tensor) -> bool:
    """Whether a kernel may be launched before its predecessor has ended and wait for it inside (Hopper and later)."""
    return tensor.is_cuda and torch.cuda.get_device_capability(tensor.device)[0] >= 9


def require(condition: bool, message: str) -> None:
    """Raise ValueError with `message` unless `condition` holds."""
    if not condition:
        raise ValueError(message)


def require_tensor(
    name: str,
    tensor: torch.Tensor,
    shape: tuple[int | None, ...],
    *dtypes: torch.dtype,
    like: torch.Tensor | None = None,
) -> None:
    """Raise ValueError unless `tensor` is contiguous, of `shape` (None: any), of one of `dtypes`, beside `like`."""
    fits = tensor.dim() == len(shape) and all(w is None or w == n for w, n in zip(shape, tensor.shape, strict=True))
    require(fits, f"{name} must have shape {_show(shape)}, not {tuple(tensor.shape)}")
    require(not dtypes or tensor.dtype in dtypes, f"{name} must be {' or '.join(map(str, dtypes))}, not {tensor.dtype}")
    require(tensor.is_contiguous(), f"{name} must be contiguous; its strides are {tensor.stride()}")
    if like is not None:
        require(tensor.device == like.device, f"{name} is on {tensor.device}, but the others are on {like.device}")


def _show(shape: tuple[int | None, ...]) -> str:
    return "[" + ", ".join("any" if n is None else str(n) for n in shape) + "]"


def next_power_of_two(n: int) -> int:
    """The least power of two that is at least `n` (and at least 1)."""
    return 1 << max(0, n - 1).bit_length()
