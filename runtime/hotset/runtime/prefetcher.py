"""The prefetch stream of the CPU backend: one thread that copies pages into FILLING slots."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass

import torch

from hotset.runtime.backing import BackingStore
from hotset.runtime.host_link import HostLink

PIECE = 32
"""Pages that cross a slow link together: they become visible together, and demand waits for no more than these."""
STEP_PIECE = 8
"""The same of prefetches for a layer that begins soon."""


@dataclass(frozen=True, eq=False)
class _Flight:
    pages: torch.Tensor
    slots: torch.Tensor
    generations: torch.Tensor
    copy: Future[None]
    layer: int | None


class Prefetcher:
    """Copies in order of `start`; `arrived` hands flights back in that order once their copies are done."""

    def __init__(self, backing: BackingStore, rows: torch.Tensor, link: HostLink | None = None) -> None:
        self._backing, self._link = backing, link
        self._rows = rows
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="hotset-prefetch")
        self._flights: list[_Flight] = []

    def start(
        self, pages: torch.Tensor, slots: torch.Tensor, generations: torch.Tensor, *, layer: int | None = None
    ) -> None:
        """Copy `pages` into `slots` (both [n] int64); `generations` [n] int64 are checked again at commit.

        What `layer` of this step is waiting for passes in small pieces, which `give_up` can take back.
        """
        piece = max(1, pages.numel()) if self._link is None else PIECE if layer is None else STEP_PIECE
        for start in range(0, pages.numel(), piece):
            part = slice(start, start + piece)
            copy = self._thread.submit(self._copy, pages[part], slots[part])
            self._flights.append(_Flight(pages[part], slots[part], generations[part], copy, layer))

    def arrived(self, *, wait: bool) -> list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
        """(pages, slots, generations) of finished flights. Raises what the copy raised."""
        done = []
        while self._flights and (wait or self._flights[0].copy.done()):
            flight = self._flights.pop(0)
            flight.copy.result()
            done.append((flight.pages, flight.slots, flight.generations))
        return done

    def give_up(self, layer: int) -> torch.Tensor:
        """Take back what has not begun to move for `layer`; its slots, [n] int64."""
        gone = [flight for flight in self._flights if flight.layer == layer and flight.copy.cancel()]
        self._flights = [flight for flight in self._flights if flight not in gone]
        return torch.cat([torch.empty(0, dtype=torch.int64), *(flight.slots for flight in gone)])

    def wait_for(self, pages: torch.Tensor) -> bool:
        """Wait for a piece on its way to a layer of this step if it brings any of `pages` ([n]); whether it does.

        A miss would pass the link behind it, and bring the page a second time.
        """
        for flight in self._flights:
            if flight.layer is not None and flight.copy.running() and bool(torch.isin(flight.pages, pages).any()):
                wait([flight.copy])
                return True
        return False

    def close(self) -> None:
        """Give up what has not begun and wait for the thread to end."""
        self._thread.shutdown(wait=True, cancel_futures=True)

    def _copy(self, pages: torch.Tensor, slots: torch.Tensor) -> None:
        if self._link is None:
            self._backing.fetch(pages, self._rows, slots)
            return
        with self._link.carrying(pages.numel() * self._rows[0].nbytes, demand=False):
            self._backing.fetch(pages, self._rows, slots)
