"""What all sessions of one daemon share: devices whose memory is split between decode processes.

A session offers a price list: what it would lose, in tokens a second, with every share of the memory. The device's
budget goes, piece by piece, to whoever gains most by the next piece: on lower convex hulls that is the best split.
"""

from __future__ import annotations

import heapq
import threading
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Float64 = npt.NDArray[np.float64]


class Offer(NamedTuple):
    """Memory in bytes, rising from the least that the session needs, and the loss with each, in tokens a second."""

    bytes: Float64
    loss: Float64


class Node:
    """Thread-safe: every session's advisor offers, and asks for its share."""

    def __init__(self, device_bytes: int | None = None) -> None:
        """`device_bytes`: what the hot sets of one device may take together; None: each may take all it has."""
        self._device_bytes = device_bytes
        self._lock = threading.Lock()
        self._offers: dict[str, tuple[str, Offer]] = {}
        self._joined: dict[str, str] = {}

    def join(self, session: str, device: str) -> None:
        """A session that will offer for memory of `device`; until all have, each has an equal part."""
        with self._lock:
            self._joined[session] = device

    def offer(self, session: str, device: str, offer: Offer) -> float | None:
        """Replace the session's offer; returns its share in bytes, None if nothing limits it."""
        with self._lock:
            self._offers[session] = (device, offer)
            if self._device_bytes is None or not device:
                return None
            rivals = {name: said for name, (where, said) in self._offers.items() if where == device}
            joined = {name for name, where in self._joined.items() if where == device} | rivals.keys()
            if len(rivals) < len(joined):
                # Those whose worth is not known yet hold memory, too.
                return max(float(offer.bytes[0]), self._device_bytes / len(joined))
            return split(rivals, self._device_bytes)[session]

    def forget(self, session: str) -> None:
        """The session is over; what it had is free."""
        with self._lock:
            self._offers.pop(session, None)
            self._joined.pop(session, None)


def split(offers: dict[str, Offer], budget: float) -> dict[str, float]:
    """Bytes for each session so that the sum of losses is least; each gets its least, even if that is too much.

    Greedy on the hulls; the last piece may be cut.
    """
    hulls = {name: hull(offer) for name, offer in offers.items()}
    share = {name: float(points.bytes[0]) for name, points in hulls.items()}
    left = budget - sum(share.values())
    heap = [entry for name in hulls if (entry := _next(hulls[name], name, 0))]
    heapq.heapify(heap)
    while heap and left > 0:
        _, name, place = heapq.heappop(heap)
        size = float(hulls[name].bytes[place + 1] - hulls[name].bytes[place])
        share[name] += min(size, left)
        left -= size
        if (entry := _next(hulls[name], name, place + 1)) is not None:
            heapq.heappush(heap, entry)
    return share


def _next(points: Offer, name: str, place: int) -> tuple[float, str, int] | None:
    """The piece that begins at `place`: its slope (the most negative first), whose it is, where it begins."""
    if place + 1 >= len(points.bytes):
        return None
    slope = (points.loss[place + 1] - points.loss[place]) / (points.bytes[place + 1] - points.bytes[place])
    return (float(slope), name, place) if slope < 0 else None


def hull(offer: Offer) -> Offer:
    """The lower convex hull of an offer (Andrew's monotone chain, 1979)."""
    kept: list[int] = []
    for i in range(len(offer.bytes)):
        while len(kept) > 1 and _bends_up(offer, kept[-2], kept[-1], i):
            kept.pop()
        kept.append(i)
    return Offer(offer.bytes[kept], offer.loss[kept])


def _bends_up(offer: Offer, a: int, b: int, c: int) -> bool:
    """Whether b lies on or above the line from a to c."""
    run, rise = offer.bytes[c] - offer.bytes[a], offer.loss[c] - offer.loss[a]
    return bool((offer.loss[b] - offer.loss[a]) * run >= rise * (offer.bytes[b] - offer.bytes[a]))
