"""Selections that replay a recorded trace, tiled over layers, KV heads and sequences."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from hotset.predictor.trace import Trace
from hotset.runtime.paged_kv import ModelShape, PagedKV
from hotset.runtime.selectors import Batch, BoundsSelector

_ROW, _HEAD, _LAYER = 7, 13, 29
"""Steps between what two sequences, heads or layers replay that share a recorded lane."""


@dataclass(frozen=True)
class Replay:
    """What every lane scores at every step of one period; `T` steps, `R` rows, `H` KV heads, on one device."""

    pages: list[torch.Tensor]  # by layer: [T, R, H, n] int32 logical pages
    mass: list[torch.Tensor]  # by layer: [T, R, H, n] float32 attention mass, 0 for none

    @classmethod
    def tile(cls, trace: Trace, shape: ModelShape, rows: int, pages: int, place: torch.device | str) -> Replay:
        """Recorded candidates for `rows` sequences of `pages` pages.

        Each lane takes a recorded lane and begins at a step of its own. Steps go to the end of the record and back, so
        that two in a row are always neighbours in it. Page numbers wrap where the record's context is longer.
        """
        found: tuple[list[torch.Tensor], list[torch.Tensor]] = ([], [])
        for layer in range(shape.layers):
            lanes = [_lane(trace, row, layer, head) for row in range(rows) for head in range(shape.kv_heads)]
            for into, parts in zip(found, zip(*lanes, strict=True), strict=True):
                table = np.stack(parts, 1)
                into.append(torch.from_numpy(table).view(-1, rows, shape.kv_heads, table.shape[2]).to(place))
            kept = found[0][-1] >= 0
            found[1][-1].mul_(kept)
            found[0][-1].clamp_(min=0).remainder_(pages)
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


def _lane(trace: Trace, row: int, layer: int, head: int) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]]:
    """Pages and masses of one lane over a period, [T, n] each."""
    meta, source = trace.meta, trace.sequences[row % len(trace.sequences)]
    lane = (layer % meta.layers) * meta.kv_heads + head % meta.kv_heads
    shift = row // len(trace.sequences) * _ROW + head // meta.kv_heads * _HEAD + layer // meta.layers * _LAYER
    steps = min(len(s.steps) for s in trace.sequences)
    period = max(1, 2 * (steps - 1))
    at = (np.arange(period) + shift) % period
    at = np.where(at < steps, at, period - at)
    return source.pages[at, lane], np.exp2((source.scores[at, lane].astype(np.float32) - 255) / 8)
