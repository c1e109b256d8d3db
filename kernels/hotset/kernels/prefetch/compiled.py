"""begin_prefetch on a CPU, compiled: as the reference, an entry at a time, as decoding waits for it."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import torch
from numba import njit

from hotset.kernels.state import FILLING, RESERVED, ResidencyState

_ASKED = -2
"""what slot_of says meanwhile of a page that an entry asked for"""


def begin_prefetch(
    state: ResidencyState, pages: torch.Tensor, generations: torch.Tensor, *, keep: int,
    frame_of: torch.Tensor | None, counts: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:  # fmt: skip
    """As the reference, with generations in the place of counts: those are added to `counts`.

    In NumPy around the compiled pass: the caches are cold, and each op of torch would take ten times as long.
    """
    frames = np.zeros(0, np.int32) if frame_of is None else frame_of.numpy()
    begun, slots = np.empty((2, len(pages)), np.int32)
    n = cast(Any, _begin)(
        pages.numpy(), generations.numpy(), frames, begun, slots, counts.numpy(),
        state.slot_of.numpy(), state.page_of.numpy(), state.state.numpy(), state.prefetched.numpy(),
        state.in_flight.numpy(), state.generation.numpy(),
        state.ring.numpy(), state.in_ring.numpy(), state.ring_head.numpy(), state.ring_tail.numpy(),
        state.evicted.numpy(), state.evicted_count.numpy(), state.lanes, keep,
    )  # fmt: skip
    begun, slots = begun[:n], slots[:n]
    fresh = state.generation.numpy()[begun // state.lanes].astype(np.int64)
    return torch.from_numpy(begun), torch.from_numpy(slots), torch.from_numpy(fresh)


def warm_up() -> None:
    """Compile it, or load what was compiled, before a plan comes for which a step would wait."""
    none = torch.zeros(0, dtype=torch.int64)
    state = ResidencyState.create(slots=1, groups=1, layers=1, kv_heads=1)
    begin_prefetch(state, none.int(), none, keep=0, frame_of=None, counts=torch.zeros(7).long())


@njit(cache=True, nogil=True)
def _begin(
    pages: Any, generations: Any, frames: Any, begun: Any, slots: Any, counts: Any, slot_of: Any, page_of: Any,
    kind: Any, prefetched: Any, in_flight: Any, generation: Any, ring: Any, in_ring: Any, ring_head: Any,
    ring_tail: Any, evicted: Any, evicted_count: Any, lanes: int, keep: int,
) -> int:  # fmt: skip
    room = -keep
    for i in range(ring_head[0], ring_tail[0]):
        room += kind[ring[i % len(ring)]] == RESERVED
    n = _accept(pages, generations, frames, begun, counts, slot_of, in_flight, generation, lanes, room)
    for page in pages:
        if 0 <= page < len(slot_of) and slot_of[page] == _ASKED:
            slot_of[page] = -1
    _take(begun, slots, n, slot_of, page_of, kind, prefetched, ring, in_ring, ring_head, ring_tail, evicted,
          evicted_count)  # fmt: skip
    return n


@njit(cache=True, nogil=True)
def _accept(
    pages: Any, generations: Any, frames: Any, begun: Any, counts: Any, slot_of: Any, in_flight: Any, generation: Any,
    lanes: int, room: int,
) -> int:  # fmt: skip
    """Sort out what cannot begin, by the reasons of the reference."""
    n = 0
    for i in range(len(pages)):
        page = pages[i]
        if page < 0 or page >= len(slot_of):
            counts[2] += 1
        elif len(frames) and frames[page] < 0:
            counts[1] += 1
        elif generation[page // lanes] != generations[i]:
            counts[3] += 1
        elif slot_of[page] >= 0:
            counts[4] += 1
        elif in_flight[page] or slot_of[page] == _ASKED:
            counts[5] += 1
        else:
            # Whoever asks again is told that it is under way, whether or not there is room.
            slot_of[page] = _ASKED
            if n < room:
                counts[0] += 1
                begun[n] = page
                in_flight[page] = True
                n += 1
            else:
                counts[6] += 1
    return n


@njit(cache=True, nogil=True)
def _take(
    begun: Any, slots: Any, n: int, slot_of: Any, page_of: Any, kind: Any, prefetched: Any, ring: Any, in_ring: Any,
    ring_head: Any, ring_tail: Any, evicted: Any, evicted_count: Any,
) -> None:  # fmt: skip
    """Give reserved slots, in ring order, to the first `n` of `begun`; what they held is logged as evicted."""
    taken, head = 0, ring_head[0]
    while taken < n and head < ring_tail[0]:
        slot = ring[head % len(ring)]
        in_ring[slot] = False
        head += 1
        if kind[slot] != RESERVED:
            continue
        old = page_of[slot]
        if old >= 0:
            slot_of[old] = -1
            if evicted_count[0] < len(evicted):
                evicted[evicted_count[0]] = old
            evicted_count[0] += 1
        page_of[slot], kind[slot], prefetched[slot], slots[taken] = begun[taken], FILLING, False, slot
        taken += 1
    ring_head[0] = head
