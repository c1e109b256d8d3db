"""Page bounds (Quest, Tang et al., ICML 2024, section 3.2): an upper bound of q.k from each page's min and max key."""

from __future__ import annotations

import torch

from hotset.kernels.page_scores import page_scores
from hotset.runtime.selectors.base import Batch, Selector


class BoundsSelector(Selector):
    """Softmax over pages of the bound, per query head; needs no page to be resident."""

    def mass(self, batch: Batch, query: torch.Tensor, layer: int, scale: float) -> torch.Tensor:
        """See Selector.mass."""
        shape = self.kv.shape
        return page_scores(
            query,
            self.kv.bounds,
            batch.groups,
            batch.pages,
            layer=layer,
            kv_heads=shape.kv_heads,
            lanes=self.kv.lanes,
            scale=scale,
        )
