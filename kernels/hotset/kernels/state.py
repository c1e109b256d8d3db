"""The device-side residency state that resolve, reclaim, apply_plan and prefetch share.

Words: a *physical page* is `group * lanes + layer * kv_heads + head`; a *slot* is a row of the hot pool.
A *tick* counts resolve calls (one a layer and step), so "used by this step" is `last_used >= step_tick`.

Who owns a slot:

    FREE      nobody; page_of is -1
    LIVE      its page; slot_of[page] points back; may become a victim
    RESERVED  its page still, until a miss takes the slot out of the ring; a hit before that rescues it
    PINNED    its page (a tail); never a victim
    FILLING   a prefetch in flight, see in_flight; page_of names the page, slot_of does not point back before commit
    HELD      nobody, and no kernel may take it: the hot set was told to do with less (see held.py)

The ring holds the reserve: `ring[head % slots .. tail % slots)`. Every RESERVED slot stands in it exactly
once. A slot that was rescued or held keeps its place until it is popped (and then skipped), so a slot that is
reserved again before that is not pushed twice: `in_ring` tells.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, fields, replace
from typing import Any

import torch

FREE, LIVE, RESERVED, PINNED, FILLING, HELD = range(6)
NEVER = -(1 << 30)
MOST_TICKS = 1 << 29
"""Whoever counts up to this has to rebase: beyond twice as many a difference to NEVER would not fit 32 bits."""
# Words of `scratch`: counters of the Triton kernels, then eight histograms of 256 bins.
SCRATCH_FAILED = 17
SCRATCH_AHEAD = 40
SCRATCH_HISTOGRAMS = 64
_SCRATCH = SCRATCH_HISTOGRAMS + 8 * 256


@dataclass
class ResidencyState:
    """All tensors live on one device; `P` physical pages, `S` slots, `G` groups."""

    slot_of: torch.Tensor  # [P] int32, -1 where not resident
    page_of: torch.Tensor  # [S] int32, -1 where empty
    state: torch.Tensor  # [S] uint8, FREE..HELD
    last_used: torch.Tensor  # [S] int32 tick of the last use, NEVER before it
    prefetched: torch.Tensor  # [S] bool, brought in by prefetch and not used since
    in_flight: torch.Tensor  # [P] bool, a FILLING slot waits for the page; at most one does
    value: torch.Tensor  # [S] float32, log2 of predicted steps to next use
    value_until: torch.Tensor  # [S] int32, tick up to which `value` (from a plan) beats the built-in policy
    ema: torch.Tensor  # [P] float32, average of the page's scores, 8 an octave; 255 - 8 * value
    generation: torch.Tensor  # [G] int32, grows when the group is freed
    ring: torch.Tensor  # [S] int32
    in_ring: torch.Tensor  # [S] bool
    ring_head: torch.Tensor  # [1] int64, entries popped since the start
    ring_tail: torch.Tensor  # [1] int64, entries pushed since the start
    evicted: torch.Tensor  # [S] int32 pages that lost their slot since the log was last read; on CUDA -1 means none
    evicted_count: torch.Tensor  # [1] int32; beyond S the log has overflowed and a snapshot is due
    tick: torch.Tensor  # [1] int32, resolve calls so far; on the device, so that captured graphs see it move
    step_tick: torch.Tensor  # [1] int32, tick at which the current step began
    keys: torch.Tensor  # [S] int64, workspace of the Triton reclaimer
    scratch: torch.Tensor  # [_SCRATCH] int32, counters of the Triton kernels, which leave them as they need them
    ticks_per_step: int  # layers

    @classmethod
    def create(
        cls, *, slots: int, groups: int, layers: int, kv_heads: int, device: torch.device | str = "cpu"
    ) -> ResidencyState:
        """A pool with nothing resident and an empty reserve.

        Raises ValueError if a size is not positive or a physical page number would not fit int32.
        """
        if min(slots, groups, layers, kv_heads) < 1:
            raise ValueError(f"all sizes must be positive: {slots=}, {groups=}, {layers=}, {kv_heads=}")
        lanes = layers * kv_heads
        if groups * lanes >= 1 << 31:
            raise ValueError(f"{groups} groups of {lanes} lanes exceed 2**31 physical pages; use larger pages")

        def full(n: int, value: float, dtype: torch.dtype) -> torch.Tensor:
            return torch.full((n,), value, dtype=dtype, device=device)

        pages = groups * lanes
        return cls(
            slot_of=full(pages, -1, torch.int32),
            page_of=full(slots, -1, torch.int32),
            state=full(slots, FREE, torch.uint8),
            last_used=full(slots, NEVER, torch.int32),
            prefetched=full(slots, False, torch.bool),
            in_flight=full(pages, False, torch.bool),
            value=full(slots, 0.0, torch.float32),
            value_until=full(slots, NEVER, torch.int32),
            ema=full(pages, 0.0, torch.float32),
            generation=full(groups, 0, torch.int32),
            ring=full(slots, -1, torch.int32),
            in_ring=full(slots, False, torch.bool),
            ring_head=full(1, 0, torch.int64),
            ring_tail=full(1, 0, torch.int64),
            evicted=full(slots, -1, torch.int32),
            evicted_count=full(1, 0, torch.int32),
            tick=full(1, 0, torch.int32),
            step_tick=full(1, 0, torch.int32),
            keys=full(slots, 0, torch.int64),
            scratch=full(_SCRATCH, 0, torch.int32),
            ticks_per_step=layers,
        )

    def rebase(self, by: int) -> None:
        """Count ticks from `by` ticks later on: uses keep their order, and values the steps that they hold for."""
        for ticks in (self.tick, self.step_tick, self.last_used, self.value_until):
            ticks.copy_((ticks.long() - by).clamp(min=NEVER))

    @property
    def slots(self) -> int:
        """Rows of the hot pool."""
        return self.page_of.numel()

    @property
    def lanes(self) -> int:
        """Lanes of one sequence."""
        return self.slot_of.numel() // self.generation.numel()

    def to(self, device: torch.device | str) -> ResidencyState:
        """The state on `device`; tensors that are there already are not copied."""
        moved: dict[str, Any] = {name: v.to(device) for name, v in vars(self).items() if isinstance(v, torch.Tensor)}
        return replace(self, **moved)

    def clone(self) -> ResidencyState:
        """A deep copy, for tests that compare two implementations."""
        return ResidencyState(**{f.name: copy.deepcopy(getattr(self, f.name)) for f in fields(self)})
