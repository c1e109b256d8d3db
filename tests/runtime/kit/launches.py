# mypy: disable-error-code="import-untyped, no-untyped-call"
"""What a piece of a step would launch on a GPU, counted without one: torch's ops and Triton's kernels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from triton.runtime.interpreter import GridExecutor

_FREE = {"alias", "as_strided", "detach", "empty", "empty_like", "empty_strided", "expand", "lift_fresh", "new_empty",
         "permute", "select", "slice", "split", "split_with_sizes", "squeeze", "t", "transpose", "unbind", "unsqueeze",
         "_unsafe_view", "view"}  # fmt: skip
"""Ops that launch nothing: other views of a tensor, or room for one."""


class Launches(TorchDispatchMode):
    """Counts by name. An op counts once, though some (a sort) are several kernels on a GPU."""

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[str] = Counter()
        self._left_out = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        with self:
            # Without gradients an op of several others comes whole.
            parts = func.decompose(*args, **(kwargs or {}))
        if parts is not NotImplemented:
            return parts
        name = func.overloadpacket.__name__
        if name not in _FREE:
            self.found[name] += 1
        return func(*args, **(kwargs or {}))

    @contextmanager
    def counting(self) -> Iterator[None]:
        """What runs inside counts; a kernel counts as one, whatever its interpreter does."""
        real = GridExecutor.__call__

        def launch(executor: Any, *args: Any, **kwargs: Any) -> Any:
            self.found[executor.fn.__name__] += not self._left_out
            with _disable_current_modes():
                return real(executor, *args, **kwargs)

        with mock.patch.object(GridExecutor, "__call__", launch), self:
            yield

    def counted(self, method: Callable[..., Any], *, counts: bool = True) -> Callable[..., Any]:
        """`method`, whose calls count; or do not, where they happen inside of one that counts."""

        def call(*args: Any, **kwargs: Any) -> Any:
            if counts:
                with self.counting():
                    return method(*args, **kwargs)
            before, self._left_out = self._left_out, True
            try:
                with _disable_current_modes():
                    return method(*args, **kwargs)
            finally:
                self._left_out = before

        return call
