"""Plans enter between two steps; what became of one is told at a later safe point, once its counts have arrived."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch

from hotset.kernels.apply_plan import REASONS as PLAN_REASONS
from hotset.kernels.apply_plan import apply_plan
from hotset.kernels.prefetch import REASONS as PREFETCH_REASONS
from hotset.kernels.prefetch import begin_prefetch
from hotset.runtime.figures import Cause
from hotset.runtime.gpu.counts import BEGUN, PLAN
from hotset.runtime.gpu.device import Event, Stream
from hotset.runtime.gpu.prefetch import copy_engine_wins
from hotset.runtime.gpu.upload import upload_together

if TYPE_CHECKING:
    from hotset.runtime.gpu.residency import DeviceResidency

Values = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
"""Pages, generations and values"""
Fetches = tuple[torch.Tensor, torch.Tensor]
"""Pages and generations"""
Tell = Callable[[int, Counter[str]], None]
"""(entries applied, rejected by reason)"""

VALUES = slice(0, 1 + len(PLAN_REASONS))
"""Where apply_plan's counts stand among a plan's."""
FETCHES = slice(VALUES.stop, VALUES.stop + 1 + len(PREFETCH_REASONS))
"""Those of begin_prefetch."""
NOT_STORED = FETCHES.start + 1 + PREFETCH_REASONS.index("not_stored")
_IDS, _GENERATIONS, _NUMBERS = (torch.empty(0, dtype=dtype) for dtype in (torch.int32, torch.int64, torch.float32))


def rejected_of(counts: list[int]) -> Counter[str]:
    """Entries of a plan that were rejected, by reason."""
    rejected = Counter(dict(zip(PLAN_REASONS, counts[VALUES][1:], strict=True)))
    rejected.update(dict(zip(PREFETCH_REASONS, counts[FETCHES][1:], strict=True)))
    return +rejected


class DevicePlans:
    """Takes plans over with one copy up and one down; nothing waits for the device. Entries come as host tensors."""

    def __init__(self, manager: DeviceResidency) -> None:
        self._manager = manager
        self._waiting: list[tuple[Event, torch.Tensor, Tell]] = []

    def warm_up(self) -> None:
        """Compile what a plan needs, before one comes for which a step would wait. It is of a page that is none."""
        manager = self._manager
        entry = (none.new_full((1,), -1) for none in (_IDS, _GENERATIONS, _NUMBERS))
        counts, page, generation, value = upload_together(manager.device, torch.zeros(FETCHES.stop).long(), *entry)
        apply_plan(manager.state, page, generation, value, epoch_tick=0, until_tick=0, counts=counts[VALUES])
        self._begin(page, generation, counts[FETCHES])
        manager.commit_prefetches(wait=True)

    def enter(
        self, values: Values | None, fetches: Fetches | None, epoch_tick: int = 0, until_tick: int = 0
    ) -> torch.Tensor:
        """Write the values and begin the prefetch; counts [FETCHES.stop] int64, also added to the manager's."""
        manager = self._manager
        values, fetches = values or (_IDS, _GENERATIONS, _NUMBERS), fetches or (_IDS, _GENERATIONS)
        zeros = torch.zeros(FETCHES.stop, dtype=torch.int64)
        if manager.eager:
            fetches, zeros[NOT_STORED] = self._stored(*fetches)
        counts, pages, generations, numbers, *fetch = self._upload(zeros, *values, *fetches)
        if pages.numel():
            apply_plan(manager.state, pages, generations, numbers, epoch_tick=epoch_tick, until_tick=until_tick,
                       counts=counts[VALUES])  # fmt: skip
        if fetch[0].numel():
            self._begin(fetch[0], fetch[1], counts[FETCHES])
        manager.counts[PLAN.start : BEGUN.stop] += counts
        return counts

    def expect(self, counts: torch.Tensor, tell: Tell) -> None:
        """Have `tell` called with `counts`, which `enter` gave."""
        device = self._manager.device
        there = device.pinned(tuple(counts.shape), torch.int64)
        device.wait(Stream.PLANS, device.mark(Stream.DEMAND))
        with device.on(Stream.PLANS):
            there.copy_(counts, non_blocking=True)
        self._waiting.append((device.mark(Stream.PLANS), there, tell))

    def deliver(self) -> None:
        """Tell what has arrived."""
        while self._waiting and self._waiting[0][0].query():
            _, there, tell = self._waiting.pop(0)
            counts = there.tolist()
            tell(counts[VALUES.start] + counts[FETCHES.start], rejected_of(counts))

    def _upload(self, *parts: torch.Tensor) -> list[torch.Tensor]:
        """On a stream of its own, while the device computes; they are the demand stream's from here on."""
        device = self._manager.device
        with device.on(Stream.PLANS):
            there = upload_together(device, *parts)
        device.wait(Stream.DEMAND, device.mark(Stream.PLANS))
        device.keep(there[0], Stream.DEMAND)  # the others are parts of the same memory
        return there

    def _begin(self, pages: torch.Tensor, generations: torch.Tensor, counts: torch.Tensor) -> None:
        manager = self._manager
        # With a disk the host alone knows what is stored, and has looked.
        frames = None if manager.eager else manager.backing.frame_at
        begun = begin_prefetch(manager.state, pages, generations, keep=manager.low, frame_of=frames, counts=counts)
        if manager.ahead is not None:
            manager.figures.begun(Cause.PLAN, begun.pages, begun.slots)
        manager.flights.start(begun, staged=manager.eager or copy_engine_wins(manager.pass_tokens))

    def _stored(self, pages: torch.Tensor, generations: torch.Tensor) -> tuple[Fetches, torch.Tensor]:
        """Entries without those whose page no tier has, and how many those are."""
        inside = (pages >= 0) & (pages < self._manager.state.slot_of.numel())
        stored = ~inside | self._manager.backing.has(torch.where(inside, pages, 0).long())
        return (pages[stored], generations[stored]), (~stored).sum()
