"""Full attention mass, the oracle: every key of every page is read, wherever it sits."""

from __future__ import annotations

import torch

from hotset.runtime.selectors.base import Batch, Selector


class MassSelector(Selector):
    """Exact softmax mass per page. It reads the whole KV each step, so it is for study, not for serving."""

    capturable = False

    def mass(self, batch: Batch, query: torch.Tensor, layer: int, scale: float) -> torch.Tensor:
        """See Selector.mass."""
        heads, (rows, width) = self.kv.shape.kv_heads, batch.groups.shape
        out = torch.zeros(rows, heads, width, device=query.device)
        for row in range(rows):
            count, length = int(batch.pages[row]), int(batch.lengths[row])
            if not count:
                continue
            keys = self._keys(batch.groups[row, :count].long().cpu(), layer)[:, :length]
            per_group = query[row].view(heads, -1, query.shape[-1]).float()
            weight = torch.softmax(per_group @ keys.float().transpose(-1, -2) * scale, dim=-1).sum(1)
            padded = torch.nn.functional.pad(weight, (0, count * self.kv.page_size - length))
            out[row, :, :count] = padded.view(heads, count, -1).sum(-1)
        return out

    def _keys(self, groups: torch.Tensor, layer: int) -> torch.Tensor:
        """All keys of one sequence in `layer`, [Hkv, pages * page_size, D]."""
        pages = self.kv.layer_pages(groups, layer).transpose(0, 1).flatten()
        rows = self.kv.manager.peek(pages)
        return rows[:, 0].reshape(self.kv.shape.kv_heads, -1, self.kv.shape.head_dim)
