"""Prefetches that a step begins for its own later layers: copies forked from the demand stream, which join it again.

    demand   ... begin_prefetch ──┬── layers before the target ──┬── commit_prefetch, resolve, swap_in of the target ...
    ahead                         └── swap_in into FILLING slots ┘

Both events are recorded and waited for on the device, so a captured graph holds the fork and the join.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch

from hotset.kernels.prefetch import Ahead, begin_ahead, commit_ahead
from hotset.kernels.swap_in import rows_of, stamp, swap_in
from hotset.protos.messages import LayerFigure
from hotset.runtime.figures import Cause
from hotset.runtime.gpu.counts import BEGUN, LINK_NS, STALL_NS, WASTED
from hotset.runtime.gpu.device import Event, Stream

if TYPE_CHECKING:
    from hotset.runtime.gpu.residency import DeviceResidency

_AT_ONCE = 2
"""Layers that have a flight under way while one resolves: the next two."""


class _Flight(NamedTuple):
    # Kept until the demand stream has waited for the copy: their memory is not used again before.
    pages: torch.Tensor
    slots: torch.Tensor
    copied: Event


class AheadFlights:
    """At most one flight a layer. Nothing here waits for the device, or asks it how much there is to do."""

    def __init__(self, manager: DeviceResidency, *, fetches: bool) -> None:
        self._manager, self.fetches = manager, fetches
        place, layers = manager.rows.device, manager.figures.now.shape[1]
        self._bytes = rows_of(manager.rows)
        self._room = torch.zeros(1, dtype=torch.int32, device=place)
        self._clock = torch.zeros(layers, 2, dtype=torch.int64, device=place)
        self._asked = torch.zeros(layers, dtype=torch.int64, device=place)
        self.wanted = torch.zeros(layers, dtype=torch.int32, device=place)
        """pages that this step wants to prefetch, and below those that it began to"""
        self._begun = torch.zeros(layers, dtype=torch.int32, device=place)
        self._flights: dict[int, _Flight] = {}

    def open_room(self, spare: int) -> None:
        """Flights of the coming step may hold `spare` slots together, which its layers can do without."""
        # A pass that failed half way leaves flights behind that no layer settled.
        self._flights.clear()
        self._room.fill_(max(0, spare) // _AT_ONCE)

    def start(self, pages: torch.Tensor, layer: int, wanted: torch.Tensor, most: torch.Tensor) -> None:
        """Start copying `pages` ([n] int32, surest first) for `layer`, which begins soon in this step.

        The first `wanted` ([1] int32) mean something. Takes `most` ([1] int32) of them, or what the reserve has; the
        others count as held.
        """
        manager, state = self._manager, self._manager.state
        count = self._begun[layer : layer + 1]
        ahead = Ahead(wanted, most, self._room, manager.backing.frame_at, manager.figures.cause)
        begun, slots = begin_ahead(state, pages, ahead, count, keep=manager.low, why=int(Cause.STEP))
        self._flights[layer] = _Flight(begun, slots, self._copy(layer, begun, slots, count))

    def settle(self, layer: int) -> None:
        """`layer` is about to resolve: its prefetches become visible, behind their copies."""
        flight, manager = self._flights.pop(layer, None), self._manager
        if flight is None:
            return
        stamp(self._asked[layer : layer + 1])
        manager.device.wait(Stream.DEMAND, flight.copied)
        count = self._begun[layer : layer + 1]
        commit_ahead(manager.state, flight.pages, flight.slots, count, manager.counts[WASTED : WASTED + 1])

    def count(self, missed: torch.Tensor, stalls: torch.Tensor) -> None:
        """Behind a whole step: misses and nanoseconds of their copies, [layers] each, and what flights took."""
        counts, figures = self._manager.counts, self._manager.figures
        begun = self._begun.long()
        counts[BEGUN.start] += begun.sum()
        figures.count_begun(Cause.STEP, begun)
        busy = (self._clock[:, 1] - self._clock[:, 0]).clamp(min=0)
        waited = torch.where(busy > 0, self._clock[:, 1] - self._asked, 0).clamp(min=0)
        counts[STALL_NS] += waited.sum()
        counts[LINK_NS] += busy.sum()
        for figure, found in ((LayerFigure.DEMAND_PAGES, missed), (LayerFigure.COPY_STALL_US, stalls // 1000),
                              (LayerFigure.LINK_STALL_US, waited // 1000),
                              (LayerFigure.HELD_PAGES, self.wanted - begun)):  # fmt: skip
            figures.now[figure] += found
        for per_layer in (self._clock, self._asked, self.wanted, self._begun):
            per_layer.zero_()

    def _copy(self, layer: int, pages: torch.Tensor, slots: torch.Tensor, count: torch.Tensor) -> Event:
        device, backing = self._manager.device, self._manager.backing
        device.wait(Stream.AHEAD, device.mark(Stream.DEMAND))
        with device.on(Stream.AHEAD):
            swap_in(backing.host.bytes, self._bytes, pages, slots, count, frame_of=backing.frame_at,
                    clock=self._clock[layer], early=False)  # fmt: skip
        return device.mark(Stream.AHEAD)
