"""Selections that replay a recorded trace, tiled over layers, KV heads and sequences."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from hotset.predictor.trace import Trace
from hotset.runtime.paged_kv import ModelShape, PagedKV
from hotset.runtime.selectors import Batch, BoundsSelector

DISTANCE = 1
"""Layers that the replayed lookahead is early."""

_ROW, _HEAD, _LAYER = 7, 13, 29
"""Steps between what two sequences, heads or layers replay that share a recorded lane."""


@dataclass(frozen=True)
class Replay:
    """What every lane scores at every step of one period; `T` steps, `R` rows, `H` KV heads, on one device."""

    pages: list[torch.Tensor]  # by layer: [T, R, H, n] int32 logical pages
    mass: list[torch.Tensor]  # by layer: [T, R, H, n] float32 attention mass, 0 for none
    ranks: list[torch.Tensor] = field(default_factory=list)  # by layer, of a record that has them: as pages, -1 pads

    @classmethod
    def tile(cls, trace: Trace, shape: ModelShape, rows: int, pages: int, place: torch.device | str) -> Replay:
        """Recorded candidates for `rows` sequences of `pages` pages.

        Each lane takes a recorded lane and begins at a step of its own. Steps go to the end of the record and back, so
        that two in a row are always neighbours in it. Page numbers wrap where the record's context is longer.
        """
        found: tuple[list[torch.Tensor], ...] = ([], [], [])
        ranked = all(DISTANCE in sequence.lookahead for sequence in trace.sequences)
        for layer in range(shape.layers):
            lanes = [_lane(trace, row, layer, head, ranked) for row in range(rows) for head in range(shape.kv_heads)]
            for into, parts in zip(found, zip(*lanes, strict=True), strict=False):
                table = np.stack(parts, 1)
                into.append(torch.from_numpy(table).view(-1, rows, shape.kv_heads, table.shape[2]).to(place))
            kept = found[0][-1] >= 0
            found[1][-1].mul_(kept)
            found[0][-1].clamp_(min=0).remainder_(pages)
            if ranked:
                found[2][-1].copy_(torch.where(found[2][-1] >= 0, found[2][-1] % pages, -1))
        return cls(*found)

    @property
    def period(self) -> int:
        """Steps until it begins anew."""
        return self.pages[0].shape[0]


class ReplaySelector(BoundsSelector):
    """Scores pages as its parent does, for what that costs, and then takes the record's scores.

    The step stands in a tensor, so that a captured graph goes on in the record from replay to replay.
    """

    def __init__(self, kv: PagedKV, replay: Replay) -> None:
        super().__init__(kv)
        self.replay = replay
        self.step = torch.full((1,), -1, dtype=torch.int64, device=kv.bounds.device)

    def mass(self, batch: Batch, query: torch.Tensor, layer: int, scale: float) -> torch.Tensor:
        """See Selector.mass."""
        found = super().mass(batch, query, layer, scale)
        if layer == 0:
            self.step.add_(1).remainder_(self.replay.period)
        rows = query.shape[0]
        pages = self.replay.pages[layer].index_select(0, self.step)[0, :rows]
        mass = self.replay.mass[layer].index_select(0, self.step)[0, :rows]
        return found.zero_().scatter_add_(2, pages.long(), mass)

    def news(self, step: int, most: int) -> torch.Tensor:
        """Physical pages that step `step` scores and the one before did not, best first, `most` a lane: [n] int32."""
        kv, now, before = self.kv, step % self.replay.period, (step - 1) % self.replay.period
        table = kv.page_table(list(kv.sequences.values())).to(self.step.device)
        rows, found = table.shape[0], []
        for layer, (pages, mass) in enumerate(zip(self.replay.pages, self.replay.mass, strict=True)):
            new, old = pages[now, :rows], pages[before, :rows]
            known = (new[..., None] == old[..., None, :]).any(-1)
            best = torch.where(known, 0.0, mass[now, :rows]).topk(min(most, new.shape[-1]), dim=-1)
            groups = torch.gather(table[:, None].expand(-1, new.shape[1], -1), 2, new.gather(2, best.indices).long())
            lane = layer * new.shape[1] + torch.arange(new.shape[1], device=new.device)[:, None]
            found.append(torch.where(best.values > 0, groups * kv.lanes + lane, -1).flatten())
        joined = torch.cat(found)
        return joined[joined >= 0].to("cpu", torch.int32)


class ReplayEstimate(BoundsSelector):
    """Scores pages for a lookahead, for what that costs, and then ranks them as the record's lookahead did."""

    def __init__(self, kv: PagedKV, selector: ReplaySelector) -> None:
        super().__init__(kv)
        self._selector = selector

    def mass(self, batch: Batch, query: torch.Tensor, layer: int, scale: float) -> torch.Tensor:
        """See Selector.mass."""
        found, replay = super().mass(batch, query, layer, scale), self._selector.replay
        # As the first layer begins, it has not gone on to this step's part of the record yet.
        step = (self._selector.step + (layer == DISTANCE)) % replay.period
        ranks = replay.ranks[layer].index_select(0, step)[0, : query.shape[0]]
        order = torch.arange(ranks.shape[-1], 0, -1, dtype=found.dtype, device=found.device)
        return found.zero_().scatter_add_(2, ranks.clamp(min=0).long(), torch.where(ranks >= 0, order, 0.0))


def _lane(trace: Trace, row: int, layer: int, head: int, ranked: bool) -> tuple[npt.NDArray[Any], ...]:
    """Pages and masses of one lane over a period, [T, n] each, and its ranks if `ranked`."""
    meta, source = trace.meta, trace.sequences[row % len(trace.sequences)]
    lane = (layer % meta.layers) * meta.kv_heads + head % meta.kv_heads
    shift = row // len(trace.sequences) * _ROW + head // meta.kv_heads * _HEAD + layer // meta.layers * _LAYER
    steps = min(len(s.steps) for s in trace.sequences)
    period = max(1, 2 * (steps - 1))
    at = (np.arange(period) + shift) % period
    at = np.where(at < steps, at, period - at)
    found = source.pages[at, lane], np.exp2((source.scores[at, lane].astype(np.float32) - 255) / 8)
    return (*found, source.lookahead[DISTANCE][at, lane]) if ranked else found
