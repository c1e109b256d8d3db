"""What the host does in a decode step of a device, part by part: where it begins, what it takes, and on which thread.

Beside a pass the host has time until its tokens come. Where the next pass has not been launched by then, the device
waits until it is. Parts of other threads want the interpreter, so they make those of the loop longer.
"""

from __future__ import annotations

import statistics
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from hotset.kernels.measure import Row
from hotset.runtime.decoder import Decoder
from hotset.runtime.gpu.device import Stream
from hotset.runtime.gpu.inputs import StepInputs
from hotset.runtime.gpu.plans import DevicePlans
from hotset.runtime.gpu.program import Program
from hotset.runtime.gpu.residency import DeviceResidency
from hotset.runtime.gpu.ring import Told
from hotset.runtime.gpu.steps import DeviceSteps
from hotset.runtime.link.control import ControlLink
from hotset.runtime.link.server import LinkServer
from hotset.runtime.paged_kv import PagedKV

STEPS = 32
PARTS: list[tuple[type[Any], str, str]] = [
    (Decoder, "_schedule", "who runs"),
    (DeviceResidency, "begin_step", "begin the step"),
    (Decoder, "_begin_tokens", "places for the tokens"),
    (StepInputs, "fill", "send the inputs"),
    (Program, "__call__", "launch the pass"),
    (Program, "leave", "launch what follows"),
    (Told, "fill", "copy the record"),
    (PagedKV, "end_tokens", "seal tails"),
    (PagedKV, "open_next", "open tails"),
    (DeviceResidency, "commit_prefetches", "commit prefetches"),
    (ControlLink, "take_plan", "wait for a plan"),
    (DevicePlans, "enter", "take a plan over"),
    (DeviceSteps, "_tokens", "read the tokens"),
    (DeviceSteps, "publish", "publish the step"),
    (Told, "message", "make a message"),
    (LinkServer, "handle", "receive"),
    (LinkServer, "broadcast", "send"),
]
"""Class, method and what a table calls it. Some begin or wait inside of others."""
Call = tuple[str, str, float, float]
"""Part, thread, begin and end"""


def host_times(decoder: Decoder, arm: str, batch: int) -> list[Row]:
    """Run STEPS steps with a clock around each part, in the order in which parts begin (median, in a step).

    `us` is the mean of a step. The clocks slow the host a little, so steps are longer here than in the other tables.
    """
    calls: list[Call] = []
    spans: list[tuple[float, float]] = []
    assert decoder.kv.device is not None, "a CPU's steps are not launched"
    event = type(decoder.kv.device.mark(Stream.DEMAND))
    with _clocks([*PARTS, (event, "synchronize", "wait for the device")], calls):
        for _ in range(STEPS):
            start = time.perf_counter()
            decoder.step()
            spans.append((start, time.perf_counter()))
    whole = {"batch": batch, "arm": arm}
    step = statistics.median(end - start for start, end in spans) * 1e6
    clock: Row = {"part": "step by the clock", "thread": "loop", "calls a step": 1, "at us": 0, "us a step": step}
    return [{**whole, **row} for row in (clock, *_rows(calls, spans))]


def _rows(calls: list[Call], spans: list[tuple[float, float]]) -> list[Row]:
    found: dict[tuple[str, str], list[tuple[float, float]]] = defaultdict(list)
    for part, thread, begin, end in calls:
        # What a thread does may reach into the next step; it counts where it begins.
        if (start := next((start for start, stop in spans if start <= begin <= stop), None)) is not None:
            found[part, thread].append((begin - start, end - begin))
    rows = [
        {"part": part, "thread": thread, "calls a step": len(times) / len(spans),
         "at us": statistics.median(at for at, _ in times) * 1e6,
         "us a step": sum(took for _, took in times) / len(spans) * 1e6}
        for (part, thread), times in found.items()
    ]  # fmt: skip
    return sorted(rows, key=lambda row: float(row["at us"]))


@contextmanager
def _clocks(parts: list[tuple[type[Any], str, str]], calls: list[Call]) -> Iterator[None]:
    before = [(owner, method, owner.__dict__.get(method)) for owner, method, _ in parts]
    loop = threading.get_ident()

    def clocked(method: Any, part: str) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            begin = time.perf_counter()
            try:
                return method(*args, **kwargs)
            finally:
                thread = "loop" if threading.get_ident() == loop else threading.current_thread().name
                calls.append((part, thread, begin, time.perf_counter()))

        return call

    try:
        for owner, method, part in parts:
            setattr(owner, method, clocked(getattr(owner, method), part))
        yield
    finally:
        for owner, method, own in before:
            if own is None:  # it is a base class's
                delattr(owner, method)
            else:
                setattr(owner, method, own)
