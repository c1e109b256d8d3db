"""What attention does in a forward pass: prefill attends densely and writes pages; decode attends to a selection.

A pass object travels through the model as a keyword argument. For every layer the cache class hands it the new
keys and values (`append`), then the attention function asks it for the output (`attend`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch.nn.functional import scaled_dot_product_attention

from hotset.kernels.attend import attend
from hotset.kernels.select import mass_to_score, select
from hotset.protos.heat import FLOOR
from hotset.protos.messages import AccessFlag
from hotset.runtime.groups import Sequence
from hotset.runtime.lookahead import LookaheadPass
from hotset.runtime.paged_kv import PagedKV
from hotset.runtime.selectors import Batch, Selector


class Pass(Protocol):
    """One forward pass over the model."""

    def append(self, layer: int, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Take the new tokens' K and V of `layer`, each [B, Hkv, T, D]."""

    def attend(self, layer: int, query: torch.Tensor, scale: float) -> torch.Tensor:
        """Attention output of `layer` for `query` [B, Hq, T, D]: [B, T, Hq, D]."""


class PrefillPass:
    """A chunk of one prompt, starting at a page border. Full pages go straight to the host."""

    def __init__(self, kv: PagedKV, sequence: Sequence, tokens: int, *, keep: bool = False) -> None:
        self.kv, self.tokens, self.start = kv, tokens, sequence.length
        kv.extend(sequence, tokens)
        self.groups = torch.tensor(sequence.groups)
        self.last_queries: list[torch.Tensor] = []
        self.kept: list[tuple[torch.Tensor, torch.Tensor]] = []
        self._keep = keep
        self.scale = 1.0

    def append(self, layer: int, keys: torch.Tensor, values: torch.Tensor) -> None:
        """See Pass.append."""
        if self._keep:
            self.kept.append((keys.clone(), values.clone()))
        size, (heads, tokens, dim) = self.kv.page_size, keys.shape[1:]
        full = tokens // size
        pages = self.kv.layer_pages(self.groups[self.start // size :], layer)
        both = torch.stack((keys[0], values[0]), dim=1)
        sealed = both[:, :, : full * size].reshape(heads, 2, full, size, dim)
        if full:
            self.kv.store(pages[:full].flatten(), sealed.permute(2, 0, 1, 3, 4).reshape(-1, 2, size, dim))
        if tokens % size:
            self._write_tail(pages[full], both[:, :, full * size :])
        self._new = (keys, values)

    def attend(self, layer: int, query: torch.Tensor, scale: float) -> torch.Tensor:
        """See Pass.attend. Dense and causal over everything so far; the past is read back from the tiers."""
        keys, values = self._new
        past = self.start // self.kv.page_size
        if past:
            old = self.kv.tokens(self.groups[:past].tolist(), layer)
            keys, values = torch.cat((old[0], keys), 2), torch.cat((old[1], values), 2)
        self.last_queries.append(query[:, :, -1])
        self.scale = scale
        mask = (
            torch.ones(self.tokens, self.start + self.tokens, dtype=torch.bool, device=query.device).tril(self.start)
            if past
            else None
        )
        out = scaled_dot_product_attention(
            query, keys, values, attn_mask=mask, is_causal=mask is None, scale=scale, enable_gqa=True
        )
        return out.transpose(1, 2)

    def _write_tail(self, pages: torch.Tensor, both: torch.Tensor) -> None:
        slots = self.kv.manager.slots_of(pages)
        self.kv.manager.rows[slots, :, : both.shape[2]] = both
        keys = both[:, 0]
        self.kv.bounds[pages] = torch.stack((keys.amin(1), keys.amax(1)), dim=1)


class DecodePass:
    """One new token for every sequence of a batch; records each lane's accesses as it goes.

    The model may run more rows than there are sequences (see Forward); those behind them are ignored.
    """

    def __init__(
        self,
        kv: PagedKV,
        sequences: list[Sequence],
        selector: Selector,
        safe_point: Callable[[], None],
        ahead: Callable[[Batch], LookaheadPass | None] = lambda batch: None,
    ) -> None:
        self.kv, self.selector, self.safe_point = kv, selector, safe_point
        shape, n = kv.shape, 2 * kv.config.selected
        self.sequences = [s.id for s in sequences]
        groups = kv.page_table(sequences)
        lengths = torch.tensor([s.length for s in sequences], dtype=torch.int32)
        self.batch = Batch(groups, torch.tensor([len(s.groups) for s in sequences], dtype=torch.int32), lengths)
        self.offset = (lengths.long() - 1) % kv.page_size
        self.tails = torch.tensor([s.groups[-1] for s in sequences])
        recorded = (len(sequences), shape.layers, shape.kv_heads, n)
        self.candidates = torch.full(recorded, -1, dtype=torch.int32)
        self.scores = torch.zeros(recorded, dtype=torch.uint8)
        self.flags = torch.zeros(recorded, dtype=torch.uint8)
        self.ahead = ahead(self.batch)

    def append(self, layer: int, keys: torch.Tensor, values: torch.Tensor) -> None:
        """See Pass.append. The token goes to its place in the pinned tail."""
        pages = self.kv.layer_pages(self.tails, layer)
        slots = self.kv.manager.state.slot_of[pages].long()
        rows = len(self.sequences)
        token = torch.stack((keys[:rows, :, 0], values[:rows, :, 0]), dim=2)
        self.kv.manager.rows[slots, :, self.offset[:, None]] = token
        old = self.kv.bounds[pages]
        fresh = (self.offset == 0)[:, None, None]
        key = token[:, :, 0]
        low = torch.where(fresh, key, torch.minimum(old[:, :, 0], key))
        high = torch.where(fresh, key, torch.maximum(old[:, :, 1], key))
        self.kv.bounds[pages] = torch.stack((low, high), dim=2)

    def attend(self, layer: int, query: torch.Tensor, scale: float) -> torch.Tensor:
        """See Pass.attend. Select, resolve, swap in, attend over the selection in selection order."""
        self.safe_point()
        extra = query.shape[0] - len(self.sequences)
        query = query[: len(self.sequences), :, 0]
        mass = self.selector.mass(self.batch, query, layer, scale)
        config = self.kv.config
        ids = select(mass, self.batch.pages, selected=config.selected, candidates=self.candidates.shape[-1],
                     recent=config.recent)  # fmt: skip
        chosen = ids[:, :, : config.selected]
        pages = self._physical(chosen, layer)
        resolved = self.kv.manager.resolve(pages.flatten())
        self._record(layer, ids, mass, resolved.hit.view_as(chosen), resolved.prefetched.view_as(chosen))
        if self.ahead is not None:
            self.ahead.settle(layer, ids, self.scores[:, layer].contiguous(), self.flags[:, layer].contiguous())
        last = (self.batch.pages - 1)[:, None, None]
        valid = torch.where(chosen == last, (self.offset + 1)[:, None, None], self.kv.page_size).to(torch.int32)
        out = attend(query, self.kv.manager.rows, resolved.slots.view_as(chosen), valid, scale=scale)
        return torch.nn.functional.pad(out, (0, 0, 0, 0, 0, extra))[:, None]

    def candidate_heat(self, *, margins: bool) -> tuple[torch.Tensor, torch.Tensor]:
        """Physical pages of all recorded candidates ([n] int64), with their scores or their margins ([n] float32)."""
        pages = torch.stack(
            [self._physical(self.candidates[:, layer], layer) for layer in range(self.kv.shape.layers)], dim=1
        )
        heat, there = self.scores.float(), pages >= 0
        if margins:
            selected = (self.flags & int(AccessFlag.SELECTED)) != 0
            threshold = torch.where(there & ~selected, heat, 0.0).amax(-1, keepdim=True)
            heat = (FLOOR + heat - threshold).clamp(min=0)
            heat = torch.where(selected, heat.clamp(min=FLOOR), heat)
        return pages[there].long(), heat[there]

    def _physical(self, ids: torch.Tensor, layer: int) -> torch.Tensor:
        """Logical pages [B, Hkv, m] int32 (-1 pads) to physical ones, int32."""
        rows = torch.arange(ids.shape[0])[:, None, None]
        groups = self.batch.groups[rows, ids.clamp(min=0).long()]
        lane = layer * self.kv.shape.kv_heads + torch.arange(self.kv.shape.kv_heads)[:, None]
        return torch.where(ids >= 0, groups * self.kv.lanes + lane, -1).to(torch.int32)

    def _record(
        self, layer: int, ids: torch.Tensor, mass: torch.Tensor, hit: torch.Tensor, prefetched: torch.Tensor
    ) -> None:
        self.candidates[:, layer] = ids
        self.scores[:, layer] = mass_to_score(mass, ids)
        k = hit.shape[-1]
        selected = (ids[:, :, :k] >= 0).to(torch.uint8) * int(AccessFlag.SELECTED)
        self.flags[:, layer, :, :k] = (
            selected
            + hit.to(torch.uint8) * int(AccessFlag.HIT)
            + prefetched.to(torch.uint8) * int(AccessFlag.PREFETCHED)
        )


def warm_pages(kv: PagedKV, sequence: Sequence, queries: list[torch.Tensor], selector: Selector, scale: float) -> None:
    """Fill free slots with the pages that the prompt's last token would select, so that decode starts warm."""
    place = kv.bounds.device
    batch = Batch(
        kv.page_table([sequence]).to(place),
        torch.tensor([len(sequence.groups)], dtype=torch.int32, device=place),
        torch.tensor([sequence.length], dtype=torch.int32, device=place),
    )
    share = kv.manager.state.slots // kv.sharers // kv.lanes
    count = max(kv.config.recent + 1, min(2 * kv.config.selected, share))
    ranked = [torch.empty(0, dtype=torch.int64, device=place)]
    for layer, query in enumerate(queries):
        mass = selector.mass(batch, query, layer, scale)
        ids = select(mass, batch.pages, selected=count, candidates=count, recent=kv.config.recent)[0]
        groups = batch.groups[0, ids.clamp(min=0).long()].long()
        lane = layer * kv.shape.kv_heads + torch.arange(kv.shape.kv_heads, device=place)[:, None]
        ranked.append(torch.where(ids >= 0, groups * kv.lanes + lane, -1))
    pages = torch.cat([r.flatten() for r in ranked])
    kv.manager.warm(pages[pages >= 0])
