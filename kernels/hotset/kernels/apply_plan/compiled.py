"""apply_plan on a CPU, compiled: as the reference, an entry at a time, as decoding waits for it.

What an entry asks of the state lies far apart in memory, and the forward pass has emptied the caches of it: one pass
over the entries waits for that once, and needs no memory of its own.
"""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import torch
from numba import njit

from hotset.kernels.state import FILLING, ResidencyState


def apply_plan(
    state: ResidencyState,
    pages: torch.Tensor,
    generations: torch.Tensor,
    values: torch.Tensor,
    *,
    epoch_tick: int,
    until_tick: int,
    counts: torch.Tensor,
) -> None:
    """As the reference; what it counts is added to `counts`."""
    cast(Any, _apply_plan)(
        pages.numpy(), generations.numpy(), values.numpy(), counts.numpy(), state.slot_of.numpy(), state.state.numpy(),
        state.last_used.numpy(), state.value.numpy(), state.value_until.numpy(), state.generation.numpy(),
        state.lanes, epoch_tick, until_tick,
    )  # fmt: skip


def warm_up() -> None:
    """Compile it, or load what was compiled, before a plan comes for which a step would wait."""
    none = torch.zeros(0, dtype=torch.int64)
    state = ResidencyState.create(slots=1, groups=1, layers=1, kv_heads=1)
    apply_plan(state, none.int(), none, none.float(), epoch_tick=0, until_tick=0, counts=torch.zeros(6).long())


@njit(cache=True, nogil=True)
def _apply_plan(
    pages: Any, generations: Any, values: Any, counts: Any, slot_of: Any, kind: Any, last_used: Any, value: Any,
    value_until: Any, generation: Any, lanes: int, epoch_tick: int, until_tick: int,
) -> None:  # fmt: skip
    for i in range(len(pages)):
        page = pages[i]
        if page < 0 or page >= len(slot_of):
            counts[1] += 1
        elif generation[page // lanes] != generations[i]:
            counts[2] += 1
        elif not np.isfinite(values[i]):
            counts[3] += 1
        elif slot_of[page] < 0 or kind[slot_of[page]] == FILLING:
            counts[4] += 1
        elif last_used[slot_of[page]] > epoch_tick:
            counts[5] += 1
        else:
            counts[0] += 1
            value[slot_of[page]] = values[i]
            value_until[slot_of[page]] = until_tick
