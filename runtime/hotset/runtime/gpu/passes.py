"""A decode pass on the device: for every layer append, score, select, resolve, swap in and attend, by kernels alone."""

from __future__ import annotations

import torch

from hotset.kernels.append import append
from hotset.kernels.attend import attend
from hotset.kernels.record import Accessed
from hotset.kernels.resolve import Resolved
from hotset.kernels.select import select_scored, selected_places
from hotset.runtime.gpu.inputs import StepInputs
from hotset.runtime.gpu.residency import DeviceResidency
from hotset.runtime.lookahead import Lookahead, LookaheadPass
from hotset.runtime.paged_kv import PagedKV
from hotset.runtime.selectors import Selector


class DevicePass:
    """See Pass. Padded rows write nothing and give zeros. What layers leave stays here until the step is recorded."""

    def __init__(self, kv: PagedKV, selector: Selector, inputs: StepInputs, ahead: Lookahead | None = None) -> None:
        self.kv, self.selector, self.inputs = kv, selector, inputs
        self.ahead = None if ahead is None else LookaheadPass(ahead, inputs.batch, inputs.clocks)
        self.ids: list[torch.Tensor] = []
        self.scores: list[torch.Tensor] = []
        self.resolved: list[Resolved] = []

    @property
    def manager(self) -> DeviceResidency:
        """The KV's manager, which is that of a device."""
        assert isinstance(self.kv.manager, DeviceResidency)
        return self.kv.manager

    def append(self, layer: int, keys: torch.Tensor, values: torch.Tensor) -> None:
        """See Pass.append."""
        state, inputs = self.manager.state, self.inputs
        append(
            keys[:, :, 0].contiguous(), values[:, :, 0].contiguous(), self.manager.rows, self.kv.bounds,
            state.slot_of, inputs.tails, inputs.offsets, layer=layer, lanes=self.kv.lanes,
        )  # fmt: skip

    def attend(self, layer: int, query: torch.Tensor, scale: float) -> torch.Tensor:
        """See Pass.attend."""
        query = query[:, :, 0].contiguous()
        ids = self._select(layer, query, scale)
        inputs = self.inputs
        pages, valid = selected_places(
            ids, inputs.batch.groups, inputs.batch.pages, inputs.last, selected=self.kv.config.selected,
            page_size=self.kv.page_size, layer=layer, lanes=self.kv.lanes,
        )  # fmt: skip
        slots = self._slots(layer, pages)
        out = attend(query, self.manager.rows, slots, valid, scale=scale)[:, None]
        if self.ahead is not None:
            self.ahead.settle(layer, ids, self.scores[-1])
        return out

    def accessed(self) -> Accessed:
        """Everything that the layers accessed, for kernels.record."""
        shape = (*self.ids[0].shape[:2], self.kv.config.selected)
        hit, prefetched = (
            torch.stack([part.view(shape) for part in parts])
            for parts in ([r.hit for r in self.resolved], [r.prefetched for r in self.resolved])
        )
        return Accessed(torch.stack(self.ids), torch.stack(self.scores), hit, prefetched, self.inputs.batch.groups)

    def forget(self, rows: list[int]) -> None:
        """What `rows` accessed is nobody's."""
        where = self.manager.device.upload(torch.tensor(rows))
        for ids in self.ids:
            ids.index_fill_(0, where, -1)

    def replayed(self) -> list[torch.Tensor]:
        """See Replayed."""
        resolved = [part for r in self.resolved for part in (r.slots, r.hit, r.prefetched, r.miss_count)]
        return [*self.ids, *self.scores, *resolved, *([] if self.ahead is None else self.ahead.ranks_by_layer)]

    def _select(self, layer: int, query: torch.Tensor, scale: float) -> torch.Tensor:
        config = self.kv.config
        mass = self.selector.mass(self.inputs.batch, query, layer, scale)
        ids, scores = select_scored(
            mass, self.inputs.batch.pages, selected=config.selected, candidates=2 * config.selected,
            recent=config.recent,
        )  # fmt: skip
        self.ids.append(ids)
        self.scores.append(scores)
        return ids

    def _slots(self, layer: int, pages: torch.Tensor) -> torch.Tensor:
        resolved = self.manager.resolve_layer(pages.flatten(), layer)
        self.resolved.append(resolved)
        return resolved.slots.view_as(pages)
