"""Pages in rank order: what a lookahead says of every lane of a layer."""

from __future__ import annotations

import torch

from hotset.kernels.select import select


def rank_pages(mass: torch.Tensor, pages: torch.Tensor, *, recent: int, width: int) -> torch.Tensor:
    """The best `width` pages of every lane, [B, H, width] int32, best first, -1 pads.

    mass [B, H, max_pages] float32, not negative; pages [B] int32. What every selection holds comes first: page 0, then
    the `recent` newest pages; then the largest mass, ties to the lower page. Needs no host sync.
    """
    # A selection of only what every selection holds: all others are the candidates behind it, which are in order.
    return select(mass, pages, selected=1 + recent, candidates=width, recent=recent)
