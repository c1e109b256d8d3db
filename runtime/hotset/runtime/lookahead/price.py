"""What a prefetch costs and saves on this process's link, and how full it is."""

from __future__ import annotations

from collections.abc import Callable

import torch

from hotset.kernels.decide import least_probability
from hotset.protos.lookahead import DELAYS, UTILISATION_KEPT
from hotset.runtime.host_link import HostLink


class LinkPrice:
    """Least probabilities of use at which to prefetch. A link that is neither slowed nor timed costs nothing we see.

    `taken` tells how many seconds the link has been taken so far, None if nobody can tell. Without a slowed `link` a
    miss saves what a prefetch takes.
    """

    def __init__(
        self,
        link: HostLink | None,
        page_bytes: int,
        device: torch.device | str = "cpu",
        taken: Callable[[], float | None] = lambda: None,
    ) -> None:
        self._taken = taken
        self._link_us = link.seconds(page_bytes) * 1e6 if link else float(taken() is not None)
        self._saved_us = link.seconds(page_bytes, latency=True) * 1e6 if link else 1.0
        self._busy = 0.0
        self.utilisation = torch.zeros(1, device=device)
        """[1] share of the last steps' time that the link was taken"""

    def least(self, budget: torch.Tensor) -> torch.Tensor:
        """[n] for the daemon's `budget` [n], NaN for none."""
        return least_probability(budget, self.utilisation, link_us=DELAYS * self._link_us, saved_us=self._saved_us)

    def end_step(self, seconds: float) -> None:
        """A step took `seconds`."""
        busy = self._taken()
        if busy is None or seconds <= 0:
            return
        share, self._busy = min(1.0, (busy - self._busy) / seconds), busy
        self.utilisation.mul_(UTILISATION_KEPT).add_((1 - UTILISATION_KEPT) * share)
