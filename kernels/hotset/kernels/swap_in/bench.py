"""Bench of swap_in: payload over the host link, and what the copy costs a kernel that runs beside it."""

from __future__ import annotations

from collections.abc import Callable

import torch

from hotset.kernels.attend import attend
from hotset.kernels.measure import Row, event_pair, graph_us
from hotset.kernels.swap_in import swap_in

POOL_BYTES = 1 << 29
CASES = [(64, 1152), (256, 8192), (4096, 656), (4096, 1152), (16384, 656), (16384, 1152), (16384, 4096), (1024, 65536)]


def run() -> list[Row]:
    """Microseconds and GB/s of payload by rows, bytes a row and SMs; host to device, then device to host."""
    rows = [_large_copy()]
    for count, row in CASES:
        rows += [_case(count, row, sms, seal=False) for sms in (8, 16)]
    return [*rows, _case(256, 8192, 16, seal=True), _case(16384, 4096, 16, seal=True)]


def _row(what: str, count: int, row: int, sms: int | str, us: float) -> Row:
    return {"copy": what, "rows": count, "row bytes": row, "SMs": sms, "us": us, "GB/s": count * row / us / 1e3}


def _large_copy() -> Row:
    host = torch.empty(POOL_BYTES, dtype=torch.uint8, pin_memory=True)
    device = torch.empty(POOL_BYTES, dtype=torch.uint8, device="cuda")
    us = graph_us(lambda _: device.copy_(host, non_blocking=True), calls=2, repeats=9)
    return _row("copy engine, one piece", 1, POOL_BYTES, "-", us)


def _case(count: int, row: int, sms: int, *, seal: bool) -> Row:
    frames = POOL_BYTES // row
    host = torch.randint(0, 256, (frames, row), dtype=torch.uint8).pin_memory()
    device = torch.empty(2 * count, row, dtype=torch.uint8, device="cuda")
    calls = max(4, min(20, frames // count))
    index = [torch.randperm(frames, device="cuda")[:count].int() for _ in range(calls)]
    target = [torch.randperm(2 * count, device="cuda")[:count].int() for _ in range(calls)]
    n = torch.tensor([count], dtype=torch.int32, device="cuda")

    def copy(i: int) -> None:
        if seal:
            swap_in(device, host, target[i], index[i], n, sms=sms)
        else:
            swap_in(host, device, index[i], target[i], n, sms=sms)

    return _row("seal" if seal else "swap-in", count, row, sms, graph_us(copy, calls=calls))


def interference() -> list[Row]:
    """Slow-down of a memory-bound and of a compute-bound kernel beside a copy that fills the link all the time."""
    return [
        {"beside": name, "copy": how, "alone us": alone, "beside us": beside, "slower": f"{beside / alone - 1:.1%}"}
        for name, kernel in (("attend, batch 16", _attention()), ("bf16 matmul 8192", _matmul()))
        for how, copy in (("8 SMs", _copy(8)), ("16 SMs", _copy(16)), ("copy engine", _engine()))
        for alone, beside in [(_time(kernel, None), _time(kernel, copy))]
    ]


def _attention() -> Callable[[], object]:
    slots = torch.randn(1 << 16, 2, 16, 128, device="cuda", dtype=torch.bfloat16)
    ids = torch.randperm(1 << 16, device="cuda")[: 16 * 8 * 128].int().view(16, 8, 128)
    query = torch.randn(16, 32, 128, device="cuda", dtype=torch.bfloat16)
    valid = torch.full_like(ids, 16)
    return lambda: attend(query, slots, ids, valid, scale=0.09)


def _matmul() -> Callable[[], object]:
    a, b = (torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    return lambda: torch.matmul(a, b)


def _copy(sms: int) -> Callable[[], object]:
    host = torch.randint(0, 256, (1 << 15, 8192), dtype=torch.uint8).pin_memory()
    device = torch.empty(1 << 15, 8192, dtype=torch.uint8, device="cuda")
    index = torch.randperm(1 << 15, device="cuda").int()
    n = torch.tensor([1 << 15], dtype=torch.int32, device="cuda")
    return lambda: swap_in(host, device, index, index, n, sms=sms)


def _engine() -> Callable[[], object]:
    host = torch.empty(1 << 28, dtype=torch.uint8, pin_memory=True)
    device = torch.empty(1 << 28, dtype=torch.uint8, device="cuda")
    return lambda: device.copy_(host, non_blocking=True)


def _time(kernel: Callable[[], object], copy: Callable[[], object] | None) -> float:
    """Microseconds of the kernel in a graph of 20, while a graph of copies of 5 ms each runs on another stream."""
    kernels = _graph(kernel, 20)
    copies = _graph(copy, 24) if copy is not None else None
    side = torch.cuda.Stream(priority=-1)  # type: ignore[no-untyped-call]
    kernels.replay()
    torch.cuda.synchronize()
    if copies is not None:
        with torch.cuda.stream(side):
            copies.replay()
    begin, end = event_pair()
    begin.record()
    kernels.replay()
    end.record()
    end.synchronize()
    if copies is not None and side.query():
        raise RuntimeError("the copies ended before the kernel did; the figure would be of a kernel alone")
    torch.cuda.synchronize()
    return float(begin.elapsed_time(end)) * 1000 / 20


def _graph(body: Callable[[], object], calls: int) -> torch.cuda.CUDAGraph:
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    with torch.cuda.stream(stream):
        body()
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream):
            for _ in range(calls):
                body()
    torch.cuda.synchronize()
    return graph
