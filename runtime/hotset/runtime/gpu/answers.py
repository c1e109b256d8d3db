"""What became of a plan is told at a later safe point, once the device's counts have arrived."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import torch

from hotset.kernels.apply_plan import REASONS as PLAN_REASONS
from hotset.kernels.prefetch import REASONS as PREFETCH_REASONS
from hotset.runtime.gpu.device import Device, Event, Stream

Tell = Callable[[int, Counter[str]], None]
"""(entries applied, rejected by reason)"""


class PlanAnswers:
    """Answers that are on their way, in order. Nothing waits for them."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self._waiting: list[tuple[Event, torch.Tensor, Tell]] = []

    def expect(self, counts: torch.Tensor, tell: Tell) -> None:
        """`counts` on the device: apply_plan's; of prefetches also begin_prefetch's, and what no tier has."""
        there = self._device.pinned(tuple(counts.shape), torch.int64)
        there.copy_(counts, non_blocking=True)
        self._waiting.append((self._device.mark(Stream.DEMAND), there, tell))

    def deliver(self) -> None:
        """Tell what has arrived."""
        while self._waiting and self._waiting[0][0].query():
            _, there, tell = self._waiting.pop(0)
            counts = there.tolist()
            plan, begun = counts[: 1 + len(PLAN_REASONS)], counts[1 + len(PLAN_REASONS) :]
            rejected = Counter(dict(zip(PLAN_REASONS, plan[1:], strict=True)))
            if begun:
                rejected += Counter(dict(zip((*PREFETCH_REASONS, "not_stored"), begun[1:], strict=True)))
            tell(plan[0] + sum(begun[:1]), +rejected)
