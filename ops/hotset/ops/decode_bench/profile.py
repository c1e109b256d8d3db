"""Where the time of decode steps goes on a GPU: what each kernel takes, and how long none runs."""

from __future__ import annotations

import time
from collections import Counter

import torch
from torch.profiler import ProfilerActivity, profile

from hotset.kernels.measure import Row
from hotset.runtime.decoder import Decoder

STEPS = 8
_SHOWN = 24
_NAME = 60


def kernel_times(decoder: Decoder, arm: str, batch: int) -> list[Row]:
    """Run STEPS steps under torch's profiler: kernels and copies of all streams, what takes longest first.

    `us` is the time of all calls in a step; kernels of several streams run at the same time, so the sum may exceed the
    step. The profiler slows the host, hence steps are longer here than in the other tables.
    """
    began = time.perf_counter()
    with profile(activities=[ProfilerActivity.CUDA]) as taken:
        for _ in range(STEPS):
            decoder.step()
        torch.cuda.synchronize()
    step = (time.perf_counter() - began) / STEPS * 1e6
    calls, spent, spans = Counter[str](), Counter[str](), []
    for event in taken.events() or []:
        if event.device_type.name != "CUDA":
            continue
        name = event.name.removeprefix("void ")[:_NAME]
        calls[name] += 1
        spent[name] += event.time_range.end - event.time_range.start
        spans.append((event.time_range.start, event.time_range.end))
    whole = {"batch": batch, "arm": arm}
    rows: list[Row] = [
        {**whole, "kernel": "step by the clock", "calls a step": 1, "us a step": step},
        {
            **whole,
            "kernel": "any kernel or copy runs",
            "calls a step": len(spans) / STEPS,
            "us a step": _union(spans) / STEPS,
        },
    ]
    return rows + [
        {**whole, "kernel": name, "calls a step": calls[name] / STEPS, "us a step": us / STEPS}
        for name, us in spent.most_common(_SHOWN)
    ]


def _union(spans: list[tuple[float, float]]) -> float:
    total, reached = 0.0, float("-inf")
    for start, end in sorted(spans):
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total
