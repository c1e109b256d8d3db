"""Stall time under a model of the host link."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numba import njit

from hotset.predictor.policies.base import Float64, PolicyError
from hotset.predictor.trace.sequence import Int64


@dataclass(frozen=True)
class LinkModel:
    """A link and the compute that it can hide behind.

    gbps: bandwidth in GB/s (10^9 bytes). latency_us: paid once for each batch of transfers. layer_us: compute
    time of one layer of the whole batch, during which prefetches travel.
    """

    gbps: float = 50.0
    latency_us: float = 10.0
    layer_us: float = 50.0

    def __post_init__(self) -> None:
        if not (self.gbps > 0 and self.latency_us >= 0 and self.layer_us >= 0):
            raise PolicyError("the link model needs a bandwidth above 0, a latency and a layer time of 0 or more")

    def stall_seconds(self, demand: Int64, prefetched: Mapping[int, Int64], page_bytes: int) -> float:
        """Time that attention waits for pages.

        demand: [epochs, layers] demand misses. prefetched: layers early (0: planned, issued as the step
        begins) -> [epochs, layers] pages brought in for a layer. When a layer's turn comes, it waits for its
        demand misses and for what its prefetches have left to move:

            latency + (demand + backlog) * page_bytes / bandwidth, if there is anything to wait for.

        While a layer computes, the link moves backlog, nearest layer first, for layer_us less one latency.
        Demand has priority and hides behind nothing.
        """
        early = np.array(sorted(prefetched), np.int64)
        pages = np.zeros((len(early), *demand.shape), np.int64)
        for i, distance in enumerate(early):
            pages[i] = prefetched[int(distance)]
        page_us = page_bytes / (self.gbps * 1e3)
        return float(_stall_us(demand, early, pages, page_us, self.latency_us, self.layer_us)) / 1e6


@njit(cache=True)
def _stall_us(
    demand: Int64, early: Int64, prefetched: Int64, page_us: float, latency_us: float, layer_us: float
) -> float:
    epochs, layers = demand.shape
    stall = 0.0
    for epoch in range(epochs):
        backlog = np.zeros(layers)
        for layer in range(layers):
            for i in range(len(early)):
                _issue(backlog, layer, early[i], prefetched[i, epoch])
            waiting = demand[epoch, layer] + backlog[layer]
            backlog[layer] = 0.0
            if waiting > 0:
                stall += latency_us + waiting * page_us
            _move(backlog, layer, (layer_us - latency_us) / page_us)
    return stall


@njit(cache=True)
def _issue(backlog: Float64, layer: int, early: int, pages: Int64) -> None:
    """Queue what is issued as `layer` begins: all planned pages at layer 0, else those for `early` layers on."""
    for target in range(layer, len(backlog)):
        issued_at = 0 if early == 0 else max(0, target - early)
        if issued_at == layer:
            backlog[target] += pages[target]


@njit(cache=True)
def _move(backlog: Float64, layer: int, pages: float) -> None:
    """Move up to `pages` of the backlog of later layers while `layer` computes."""
    for target in range(layer + 1, len(backlog)):
        if pages <= 0:
            return
        moved = min(pages, backlog[target])
        backlog[target] -= moved
        pages -= moved
