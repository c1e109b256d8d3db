"""An artificial host link for decodes on a CPU: what a swap-in costs on a machine whose link is the bottleneck.

One link carries demand and prefetch. A transfer of n bytes takes `latency + n / rate`, one after the other. Demand
goes first: prefetch passes in small pieces, and only while no demand waits, so demand waits for one piece at most.
Writing back is not modelled: it goes the other way, and nobody waits for it.

A sleeping thread wakes up late, by about 75 microseconds where the kernel's timers have their usual slack of 50, which
is much beside a transfer. So demand spins for the last of its wait; prefetch, for which nobody waits, does not.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

_SPIN_SECONDS = 150e-6


class HostLink:
    """Shared by the decode loop (demand) and the prefetch thread. `gbps` is in 10^9 bytes a second."""

    def __init__(self, gbps: float, latency_us: float = 0.0) -> None:
        self._seconds_a_byte = 1e-9 / gbps
        self._latency = latency_us * 1e-6
        self._free_at = 0.0
        self._demands = 0
        self._turn = threading.Condition()
        self.busy_seconds = 0.0

    def seconds(self, size: int, *, latency: bool = False) -> float:
        """How long `size` bytes take, alone on the link; with or without its latency."""
        return size * self._seconds_a_byte + self._latency * latency

    @property
    def demanded(self) -> bool:
        """Whether demand is on the link or waits for it."""
        return self._demands > 0

    @contextmanager
    def carrying(self, size: int, *, demand: bool) -> Iterator[None]:
        """Around a copy of `size` bytes: ends no sooner than the link would have carried them."""
        if not size:
            yield
            return
        end = self._enter(size, demand)
        try:
            yield
            _wait_until(end, spin=_SPIN_SECONDS if demand else 0.0)
        finally:
            self._leave(demand)

    def _enter(self, size: int, demand: bool) -> float:
        with self._turn:
            self._demands += demand
            while not demand and (self._demands or self._free_at > time.monotonic()):
                # Demand ends with a notice; a transfer ends at a known time.
                self._turn.wait(None if self._demands else max(0.0, self._free_at - time.monotonic()))
            taken = self._latency + size * self._seconds_a_byte
            self._free_at = max(time.monotonic(), self._free_at) + taken
            self.busy_seconds += taken
            return self._free_at

    def _leave(self, demand: bool) -> None:
        with self._turn:
            self._demands -= demand
            self._turn.notify_all()


def _wait_until(end: float, *, spin: float) -> None:
    while (left := end - time.monotonic()) > 0:
        if left > spin:
            time.sleep(left - spin)
