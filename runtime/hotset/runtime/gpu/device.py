"""All that the GPU backend asks of a device: streams, events, pinned memory, captured graphs.

`CudaDevice` is the real one. `InlineDevice` has no GPU: everything runs at once and in order on CPU tensors, so that
the backend's other modules run unchanged, with kernels in Triton's interpreter.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from enum import Enum
from typing import Protocol, TypeVar, cast

import torch

T = TypeVar("T")


class Stream(Enum):
    """Work on one stream runs in order; between streams only events order it."""

    DEMAND = "demand"
    """The stream that the model computes on: residency ops, swap-in, attention."""
    PREFETCH = "prefetch"
    AHEAD = "ahead"
    """Prefetches that a step begins for its own later layers. They fork from the demand stream and join it again, so
    that a captured graph holds them; nothing else runs on it, as whatever did would be captured as well."""
    WRITE_BACK = "write-back"
    PLANS = "plans"
    """Plans come up on it beside a pass, and what became of them goes down; the demand stream runs their kernels."""
    EVENTS = "events"
    """Copies of what a step tells leave on it."""


class Event(Protocol):
    """A point in a stream's work."""

    def query(self) -> bool:
        """Whether the work before it is done."""

    def synchronize(self) -> None:
        """Wait until it is."""


class PinError(RuntimeError):
    """The operating system or the driver gives no more page-locked memory."""


class Device(ABC):
    """Where the hot pool lives. One thread launches; others may wait for events and copy."""

    place: torch.device

    @abstractmethod
    def on(self, stream: Stream) -> AbstractContextManager[object]:
        """Work launched in this context goes to `stream`."""

    @abstractmethod
    def mark(self, stream: Stream, *, sleep: bool = False) -> Event:
        """The point that the work of `stream` has reached. `sleep`: waiting for it leaves the processor to others."""

    @abstractmethod
    def wait(self, stream: Stream, event: Event) -> None:
        """Work that `stream` gets from now on begins after `event`; the host does not wait."""

    @abstractmethod
    def keep(self, tensor: torch.Tensor, stream: Stream) -> None:
        """Do not reuse the memory of `tensor` before `stream` is done with what it has been given."""

    @abstractmethod
    def pinned(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        """Host memory that copies of a stream can use while the host goes on."""

    @abstractmethod
    def upload(self, tensor: torch.Tensor) -> torch.Tensor:
        """A copy of a host tensor on the device, ordered on the current stream; the host does not wait."""

    @abstractmethod
    def pin(self, memory: torch.Tensor) -> None:
        """Page-lock a piece of host memory ([n] uint8). Raises PinError."""

    @abstractmethod
    def unpin(self, memory: torch.Tensor) -> None:
        """End what `pin` did."""

    @abstractmethod
    def capture(self, body: Callable[[], T]) -> Callable[[], T]:
        """Record what `body` launches, which must have run before; what it returns is the same at each replay.

        Calling the result replays it, on the current stream. Capturing itself computes nothing.
        """

    @abstractmethod
    def synchronize(self) -> None:
        """Wait for all streams."""


class _Done:
    def query(self) -> bool:
        return True

    def synchronize(self) -> None:
        pass


class Replayed(Protocol):
    """What a captured body returns beside tensors, and tuples of either."""

    def replayed(self) -> list[torch.Tensor]:
        """What a replay writes anew and somebody reads afterwards."""


def _tensors(result: object) -> list[torch.Tensor]:
    if isinstance(result, torch.Tensor):
        return [result]
    if isinstance(result, tuple):
        return [tensor for part in result for tensor in _tensors(part)]
    return [] if result is None else cast(Replayed, result).replayed()


class InlineDevice(Device):
    """CPU tensors; every launch has finished when it returns, so every event has happened."""

    def __init__(self) -> None:
        self.place = torch.device("cpu")

    def on(self, stream: Stream) -> AbstractContextManager[object]:
        """See Device."""
        return nullcontext()

    def mark(self, stream: Stream, *, sleep: bool = False) -> Event:
        """See Device."""
        return _Done()

    def wait(self, stream: Stream, event: Event) -> None:
        """See Device."""
        event.synchronize()

    def keep(self, tensor: torch.Tensor, stream: Stream) -> None:
        """See Device."""

    def pinned(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        """See Device."""
        return torch.empty(shape, dtype=dtype)

    def upload(self, tensor: torch.Tensor) -> torch.Tensor:
        """See Device."""
        return tensor.clone()

    def pin(self, memory: torch.Tensor) -> None:
        """See Device."""

    def unpin(self, memory: torch.Tensor) -> None:
        """See Device."""

    def capture(self, body: Callable[[], T]) -> Callable[[], T]:
        """See Device. A replay runs `body` again, and brings what it returned the first time up to date."""
        first: list[T] = []

        def replay() -> T:
            now = body()
            if first:
                for old, new in zip(_tensors(first[0]), _tensors(now), strict=True):
                    old.copy_(new)
            else:
                first.append(now)
            return first[0]

        return replay

    def synchronize(self) -> None:
        """See Device."""


class CudaDevice(Device):
    """One CUDA device. The demand stream is whichever is current: the model's work is ordered with ours."""

    def __init__(self, place: torch.device | str = "cuda") -> None:
        place = torch.device(place)
        self.place = torch.device("cuda", torch.cuda.current_device() if place.index is None else place.index)
        with torch.cuda.device(self.place):
            self._side = {s: torch.cuda.Stream(self.place) for s in Stream if s is not Stream.DEMAND}  # type: ignore[no-untyped-call]
            self._pool = torch.cuda.graph_pool_handle()

    def _stream(self, stream: Stream) -> torch.cuda.Stream:
        return self._side[stream] if stream in self._side else torch.cuda.current_stream(self.place)

    def on(self, stream: Stream) -> AbstractContextManager[object]:
        """See Device."""
        return torch.cuda.stream(self._stream(stream))

    def mark(self, stream: Stream, *, sleep: bool = False) -> Event:
        """See Device."""
        event = torch.cuda.Event(blocking=sleep)  # type: ignore[no-untyped-call]
        event.record(self._stream(stream))
        return event

    def wait(self, stream: Stream, event: Event) -> None:
        """See Device."""
        assert isinstance(event, torch.cuda.Event)
        self._stream(stream).wait_event(event)

    def keep(self, tensor: torch.Tensor, stream: Stream) -> None:
        """See Device."""
        tensor.record_stream(self._stream(stream))

    def pinned(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        """See Device."""
        return torch.empty(shape, dtype=dtype, pin_memory=True)

    def upload(self, tensor: torch.Tensor) -> torch.Tensor:
        """See Device. torch keeps the pinned copy until the stream has read it."""
        if not tensor.numel():
            return torch.empty_like(tensor, device=self.place)
        return tensor.pin_memory().to(self.place, non_blocking=True)

    def pin(self, memory: torch.Tensor) -> None:
        """See Device."""
        portable_and_mapped = 3
        runtime = torch.cuda.cudart()  # type: ignore[no-untyped-call]
        status = int(runtime.cudaHostRegister(memory.data_ptr(), memory.nbytes, portable_and_mapped))
        if status:
            self._forget_error()
            raise PinError(str(torch.cuda.CudaError(status)))

    def unpin(self, memory: torch.Tensor) -> None:
        """See Device."""
        runtime = torch.cuda.cudart()  # type: ignore[no-untyped-call]
        if int(runtime.cudaHostUnregister(memory.data_ptr())):
            self._forget_error()

    def capture(self, body: Callable[[], T]) -> Callable[[], T]:
        """See Device. All graphs share a memory pool, as no two of them run at the same time."""
        self.synchronize()
        graph = torch.cuda.CUDAGraph()
        # Other threads copy and wait for events meanwhile, which must not end the capture.
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            result = body()

        def replay() -> T:
            graph.replay()
            return result

        return replay

    def synchronize(self) -> None:
        """See Device."""
        torch.cuda.synchronize(self.place)

    def _forget_error(self) -> None:
        """CUDA tells an error again at the next launch; take it there, so that it surprises nobody else."""
        with suppress(RuntimeError):
            torch.zeros(1, device=self.place)
