"""Before anything is timed: the state in which CUDA's driver is once a process has captured several graphs.

On an H200 (driver 580) every kernel of every graph begins 0.18 us later, for good, as soon as a process that has side
streams holds four graphs or so, or has launched kernels on two streams in turn half a dozen times: 0.84 us become
1.02 for the smallest kernel, 3% of a decode step. A server is there after its first few batch sizes. Without this the
arms that happen to be measured first would be spared, and the reference is the first of all.
"""

from __future__ import annotations

import statistics

import torch

from hotset.kernels.measure import event_pair

_GRAPHS = 8
_KERNELS = 1000


def settle_driver() -> tuple[float, float]:
    """Bring the driver there; microseconds that a small kernel of a graph takes, before and after."""
    work = torch.zeros(1024, device="cuda")
    work.add_(1)
    canary = _graph(work, _KERNELS)
    before = _kernel_us(canary)
    side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    graphs = [_graph(work, 1) for _ in range(_GRAPHS)]
    for graph in graphs:
        with torch.cuda.stream(side):
            work.add_(1)
        work.add_(1)
        graph.replay()
        torch.cuda.synchronize()
    return before, _kernel_us(canary)


def _graph(work: torch.Tensor, kernels: int) -> torch.cuda.CUDAGraph:
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(kernels):
            work.add_(1)
    return graph


def _kernel_us(graph: torch.cuda.CUDAGraph) -> float:
    times = []
    for _ in range(9):
        begin, end = event_pair()
        begin.record()
        graph.replay()
        end.record()
        end.synchronize()
        times.append(float(begin.elapsed_time(end)) * 1000 / _KERNELS)
    return statistics.median(times)
