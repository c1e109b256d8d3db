"""The arms of the bench, and one arm's measurement.

    hbm        all KV in GPU memory, the same kernels, no tiers: the reference
    ample      tiered, a slot for every page: what tiering costs when nothing misses
    2k         tiered, slots for twice what each lane selects, the built-in policy
    2k+lists   the same, and each step prefetches pages of a given list for the next one
    2k+bare    as 2k, looking a layer ahead, and prefetching the first k of every lane that have no slot
    2k+learned as 2k, looking a layer ahead, and prefetching what a trained model expects to be used
    2k+held    the same with no prefetch let through: what looking ahead, features and forests cost
    2k+attached as 2k, and a daemon in a process of its own is told every step and sends plans

On a CPU the reference is a tiered pool with a slot for every page, which its backend has.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass, replace
from typing import Any

import torch

from hotset.kernels.measure import Row
from hotset.ops.decode_bench.heads import given_heads, hold
from hotset.ops.decode_bench.host import STEPS as TIMED
from hotset.ops.decode_bench.host import host_times
from hotset.ops.decode_bench.profile import STEPS as PROFILED
from hotset.ops.decode_bench.profile import kernel_times
from hotset.ops.decode_bench.replay import DISTANCE, Replay, ReplayEstimate, ReplaySelector
from hotset.ops.decode_bench.scene import Prompts, build, place_all, seat
from hotset.ops.decode_bench.shapes import Shape
from hotset.ops.decode_bench.sidecar import STEPS as STEERED
from hotset.ops.decode_bench.sidecar import sidecar, steered
from hotset.protos.messages import Message, Model
from hotset.runtime.decoder import Decoder
from hotset.runtime.gpu.residency import DeviceResidency
from hotset.runtime.residency import ResidencyManager
from hotset.runtime.steering import Steering
from hotset.runtime.stepping import make_steps

ARMS = ("hbm", "ample", "2k", "2k+lists", "2k+bare", "2k+learned", "2k+held", "2k+attached")
WARM = 12
"""Steps before the figures begin: kernels compile, passes are captured, a cold pool fills."""
TURNS = 9
"""Measurements beside a daemon, and as many without it, at most."""
LISTED = 8
"""Entries of a prefetch list a lane and step."""


@dataclass(frozen=True)
class Measured:
    """One arm: seconds of a step and what telling somebody adds, medians; what a step moved and plans in it, means."""

    step: float
    events: float
    stall: float
    misses: float
    moved_bytes: float
    plans: float
    tokens: list[list[int]]
    kernels: list[Row]
    host: list[Row]


class _Listener(Steering):
    """Takes every step message and keeps none; or sends lists, or both."""

    def __init__(self, decoder: Decoder, selector: ReplaySelector | None, lists: bool) -> None:
        self._decoder, self._selector, self._lists = decoder, selector, lists
        self.listens = False
        self._made: dict[int, torch.Tensor] = {}

    @property
    def attached(self) -> bool:
        return self.listens

    def publish(self, message: Message) -> None:
        """See Steering."""

    def make_lists(self, steps: int) -> None:
        """Before anything is timed: the lists of the next `steps` steps."""
        if self._lists and self._selector is not None:
            for step in range(self._decoder.epoch, self._decoder.epoch + steps):
                self._made[step] = self._selector.news(step + 1, LISTED)

    def apply(self, manager: ResidencyManager, epoch: int, patience: float = 0.0) -> None:
        """See Steering."""
        pages = self._made.pop(epoch, None)
        if pages is None:
            return
        generations = torch.zeros(pages.numel(), dtype=torch.int64)
        none = (pages[:0], generations[:0], torch.empty(0))
        manager.follow(none, (pages, generations), epoch_tick=0, until_tick=0, tell=lambda n, rejected: None)


def extra_options(arm: str, shape: Shape, batch: int, lanes: int, on_gpu: bool) -> dict[str, Any]:
    """RuntimeConfig options of an arm."""
    if arm == "hbm" and on_gpu:
        return {"tiered": False}
    if arm in ("hbm", "ample"):
        return {"hbm_fraction": 1.0}
    ways = {"2k+bare": "bare", "2k+learned": "learned", "2k+held": "learned"}
    inside = {"lookahead": DISTANCE, "lookahead_prefetch": ways[arm]} if arm in ways else {}
    return {"hbm_pages": batch * lanes * (2 * shape.selected + 1), **inside}


def measure(
    arm: str,
    shape: Shape,
    model: Any,
    prompts: Prompts | None,
    batch: int,
    steps: int,
    replay: Replay | None,
    device: Any = None,
    heads: Model | None = None,
    profiled: bool = False,
    timed: bool = False,
) -> Measured:
    """Decode `steps` steps as they are and as many with a listener. `device` as for Decoder, `heads` for 2k+learned.

    2k+attached: the steps with a listener are those beside a daemon, and it is them that the figures are of.

    `profiled`: some more steps, of which `kernels` tells what ran.
    `timed`: some more with the listener, of which `host` tells what the host did, on a device alone.
    """
    lanes = model.config.num_hidden_layers * model.config.num_key_value_heads
    on_gpu = model.device.type == "cuda" or device is not None
    extra = extra_options(arm, shape, batch, lanes, on_gpu)
    decoder = build(shape, model, batch, extra, device)
    try:
        seat(decoder, shape, batch, prompts)
        selector = None
        if replay is not None:
            selector = ReplaySelector(decoder.kv, replay)
            decoder.selector = selector
            if decoder.ahead is not None and replay.ranks:
                decoder.ahead.selector = ReplayEstimate(decoder.kv, selector)
            decoder.steps = make_steps(decoder.kv, decoder.forward, selector, decoder.ahead)
        if decoder.ahead is not None and decoder.ahead.book is not None:
            given_heads(decoder.ahead, heads)
        if arm == "2k+held":
            hold(decoder)
        if arm == "ample" and on_gpu:
            place_all(decoder)
        listener = _Listener(decoder, selector, arm == "2k+lists")
        decoder.steering = listener
        timed = timed and decoder.kv.device is not None
        if arm == "2k+attached":
            found = _attached(decoder, selector, shape, batch, steps, timed)
        else:
            found = _run(decoder, listener, steps)
            found = replace(found, host=host_times(decoder, arm, batch)) if timed else found
        return replace(found, kernels=kernel_times(decoder, arm, batch)) if profiled else found
    finally:
        decoder.steps.close()
        if decoder.ahead is not None:
            decoder.ahead.close()
        decoder.kv.manager.close()


def _run(decoder: Decoder, listener: _Listener, steps: int) -> Measured:
    listener.make_lists(WARM + 2 * steps + PROFILED + TIMED)
    _times(decoder, WARM)
    found = _measured(decoder, steps)
    listener.listens = True
    told, _ = _times(decoder, steps)
    return replace(found, events=max(0.0, statistics.median(told) - found.step), tokens=_tokens(decoder))


def turns(shape: Shape, steps: int, more: int = 0) -> int:
    """An odd number of measurements of `steps` steps beside a daemon, as far as the context has room for all.

    Besides there are `more` steps.
    """
    room = (shape.context - shape.start - STEERED - more) // (2 * (WARM + steps))
    return max(1, min(TURNS, room - 1 + room % 2))


def _attached(
    decoder: Decoder, selector: ReplaySelector | None, shape: Shape, batch: int, steps: int, timed: bool
) -> Measured:
    """In turn with the daemon and without it, replaying the same part of the record: elsewhere it misses more or less.

    `events` is the median of what each turn beside the daemon adds to the one before it.
    """
    begin = selector.step.clone() if selector is not None else None

    def again() -> None:
        if selector is not None and begin is not None:
            selector.step.copy_(begin)
        _times(decoder, WARM)

    with sidecar(decoder):
        steered(decoder)
        link, nobody = decoder.steering, Steering()
        found, added = [], []
        for _ in range(turns(shape, steps, TIMED if timed else 0)):
            decoder.steering = nobody
            again()
            alone, _ = _times(decoder, steps)
            decoder.steering = link
            again()
            found.append(_measured(decoder, steps))
            added.append(found[-1].step - statistics.median(alone))
        host = host_times(decoder, "2k+attached", batch) if timed else []
    middle = sorted(found, key=lambda turn: turn.step)[len(found) // 2]
    return replace(middle, events=statistics.median(added), tokens=found[-1].tokens, host=host)


def _measured(decoder: Decoder, steps: int) -> Measured:
    manager = decoder.kv.manager
    before, planned = _moved(manager), manager.moved.plans_applied
    times, stall = _times(decoder, steps)
    misses, pages = ((now - then) / steps for now, then in zip(_moved(manager), before, strict=True))
    return Measured(
        step=statistics.median(times),
        events=0.0,
        stall=stall / steps,
        misses=misses,
        moved_bytes=pages * manager.page_bytes,
        plans=(manager.moved.plans_applied - planned) / steps,
        tokens=_tokens(decoder),
        kernels=[],
        host=[],
    )


def _tokens(decoder: Decoder) -> list[list[int]]:
    return [list(generation.tokens) for generation in decoder.running]


def _times(decoder: Decoder, steps: int) -> tuple[list[float], float]:
    """Seconds of each step, and of stalls in all of them (on a device those of a step are told by the next)."""
    times, stall = [], 0.0
    for _ in range(steps):
        start = time.perf_counter()
        report = decoder.step()
        times.append(time.perf_counter() - start)
        stall += report.stall_seconds
    return times, stall


def _moved(manager: ResidencyManager) -> tuple[int, int]:
    """Demand misses and all pages moved so far; on a device as of its last answer."""
    if isinstance(manager, DeviceResidency):
        manager.read_counts(manager.counts.tolist())
    moved = manager.moved
    return moved.demand_pages, moved.demand_pages + moved.prefetch_pages
