# mypy: disable-error-code="import-untyped, no-untyped-call"
"""A device that is none, but tells apart what would be on a GPU and what on the host, as CUDA would.

Tensors are on the CPU, with real values. Each is of the world of the device or the host, by where it was made and by
what it was computed from. Wrong, as on CUDA: an op or a kernel over both worlds; NumPy over the device's. Inside
`strict` so is all for which the host would wait: reading a value, a shape that depends on values, a host's index.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves
from triton.runtime.interpreter import GridExecutor

from hotset.runtime.gpu import InlineDevice

PLACE = torch.device("cpu", 0)
"""What the device is called; the host is a CPU without a number."""
aten = torch.ops.aten
_COPIES = (aten.copy_.default,)
_INDEXED = (aten.index.Tensor, aten.index_put_.default, aten.index_put.default, aten._index_put_impl_.default)
_WAITS = (aten._local_scalar_dense.default, aten.nonzero.default, aten._unique2.default, aten.masked_select.default,
          aten.unique_dim.default, aten.bincount.default, aten.equal.default)  # fmt: skip


class WorldsMixedError(AssertionError):
    """CUDA would refuse this, or wait for the device where nothing may."""


class TwoWorlds(InlineDevice):
    """See the module; use it inside `watching`."""

    def __init__(self) -> None:
        super().__init__()
        self.place = PLACE
        self.watch = Watch()

    def upload(self, tensor: torch.Tensor) -> torch.Tensor:
        if self.watch.on_device(tensor):
            raise WorldsMixedError("what is on the device already is uploaded")
        return self.watch.adopt(tensor.clone())

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Everything inside is watched."""
        with ExitStack() as stack:
            for name in ("cpu", "to", "numpy", "tolist"):
                stack.enter_context(mock.patch.object(torch.Tensor, name, self.watch.method(name)))
            stack.enter_context(mock.patch.object(GridExecutor, "__call__", self.watch.launch(GridExecutor.__call__)))
            # No memory is pinned here, but all of the host's counts as such.
            stack.enter_context(mock.patch("hotset.kernels.swap_in._require_reachable"))
            place = property(lambda t: PLACE if self.watch.on_device(t) else torch.device("cpu"))
            stack.enter_context(mock.patch.object(torch.Tensor, "device", place))
            stack.enter_context(self.watch)
            stack.enter_context(_Making(self.watch))
            yield


class _Making(TorchFunctionMode):
    """Tensors that are made in PLACE are the device's."""

    def __init__(self, watch: Watch) -> None:
        super().__init__()
        self._watch = watch

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in (torch.tensor, torch.as_tensor) and kwargs.get("device") == PLACE:
            self._watch.wait("a list of the host's")
        result = func(*args, **kwargs)
        given = any(isinstance(t, torch.Tensor) for t in tree_leaves(args))
        if kwargs.get("device") == PLACE and not given and isinstance(result, torch.Tensor):
            self._watch.adopt(result)
        return result


class Watch(TorchDispatchMode):
    """Follows tensors by their storage."""

    def __init__(self) -> None:
        super().__init__()
        self.strict = False
        # Storages are kept, so that no other gets the address of one.
        self._device: dict[int, Any] = {}

    def adopt(self, tensor: torch.Tensor) -> torch.Tensor:
        """`tensor` is of the device's world from now on."""
        storage = tensor.untyped_storage()
        self._device[storage._cdata] = storage
        return tensor

    def on_device(self, tensor: torch.Tensor) -> bool:
        """Whether `tensor` would be on the device."""
        return tensor.untyped_storage()._cdata in self._device

    def wait(self, what: str) -> None:
        """The host would wait for the device here."""
        if self.strict:
            raise WorldsMixedError(f"{what} waits for the device inside a step")

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        given = [t for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)]
        ours = [t for t in given if self.on_device(t)]
        self._check(func, args, given, ours)
        result = func(*args, **kwargs)
        made = bool(ours)
        if func in _COPIES:
            return result
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor) and made and not self.on_device(tensor):
                self.adopt(tensor)
        return result

    def _check(self, func: Any, args: Any, given: list[torch.Tensor], ours: list[torch.Tensor]) -> None:
        if func in _WAITS and ours:
            self.wait(str(func))
        if func in _INDEXED:
            index = [t for t in tree_leaves(args[1]) if isinstance(t, torch.Tensor)]
            if any(t.dtype in (torch.bool, torch.uint8) for t in index) and ours:
                self.wait(f"{func} by a mask")
            if self.on_device(args[0]):
                if any(not self.on_device(t) for t in index):
                    self.wait(f"{func} by an index from the host")
                given = [t for t in given if not any(t is i for i in index)]
        mixed = [t for t in given if t.dim() and not self.on_device(t)]
        if ours and mixed and func not in _COPIES and func is not aten.lift_fresh.default:
            raise WorldsMixedError(f"{func} over tensors of the device and of the host")

    def method(self, name: str) -> Any:
        """A tensor's method by which it leaves for the host, or may."""
        real = getattr(torch.Tensor, name)

        def call(tensor: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
            if name == "numpy" and self.on_device(tensor):
                raise WorldsMixedError("numpy() of a tensor on the device")
            if name == "tolist" and self.on_device(tensor):
                self.wait("tolist()")
            target = torch.device("cpu") if name == "cpu" else _target(args) if name == "to" else None
            if target == PLACE and not self.on_device(tensor):
                self.wait("to() from the host")
                return self.adopt(real(tensor, *args, **kwargs).clone())
            if target is None or target == PLACE or not self.on_device(tensor):
                return real(tensor, *args, **kwargs)
            self.wait(f"{name}()")
            with _disable_current_modes():
                return real(tensor, *args, **kwargs).clone()

        return call

    def launch(self, real: Any) -> Any:
        """A kernel's launch: its tensors are the device's, but for rows that a copy brings or takes."""

        def call(executor: Any, *args: Any, **kwargs: Any) -> Any:
            copies = executor.fn.__name__ == "_swap_in"
            for place, tensor in enumerate(args):
                if isinstance(tensor, torch.Tensor) and not self.on_device(tensor) and not (copies and place < 2):
                    raise WorldsMixedError(f"argument {place} of kernel {executor.fn.__name__} is on the host")
            with _disable_current_modes():
                return real(executor, *args, **kwargs)

        return call


def _target(args: tuple[Any, ...]) -> torch.device | None:
    """The place that `Tensor.to` is told, if it is."""
    if args and isinstance(args[0], str | torch.device):
        return torch.device(args[0])
    return None
