"""How far ahead each layer is looked at, how sure a prefetch must be, and how many a layer may start in a step."""

from __future__ import annotations

import math

import numpy as np
import torch

from hotset.protos.messages import Lookahead as Steer

NO_LIMIT = (1 << 31) - 1


class LayerSettings:
    """The runtime's own `distance`, and safe values; a daemon's steering for as long as it holds.

    `least` [layers] float32 (NaN: SAFE_PROBABILITY counts) and `pages` [layers] int32 are tensors, so that captured
    graphs see them change; distances are part of what a graph does. `told` [layers] int64 are the distances that layers
    are looked at from, 0 for none.
    """

    def __init__(self, layers: int, distance: int, device: torch.device | str = "cpu") -> None:
        self._own = distance
        self.distance = [distance] * layers
        self.least = torch.full((layers,), math.nan, device=device)
        self.pages = torch.full((layers,), NO_LIMIT, dtype=torch.int32, device=device)
        self.told = self._reached().to(device)
        self._ours = self.told.clone()
        self._until: int | None = None

    def targets(self, layer: int) -> list[int]:
        """Layers that are looked ahead at when `layer` begins."""
        nearby = range(layer + 1, min(layer + 3, len(self.distance)))
        return [target for target in nearby if self.distance[target] == target - layer]

    def follow(self, steer: Steer, step: int) -> str:
        """Take over what `steer` has an opinion on, from `step` on; why not, or nothing."""
        layers = len(self.distance)
        if len(steer.distance) != layers:
            return f"it steers {len(steer.distance)} layers, the model has {layers}"
        self.distance = [self._own if told < 0 else told for told in steer.distance.tolist()]
        self.told.copy_(self._reached())
        self.least.copy_(torch.from_numpy(np.array(steer.least)))
        self.pages.copy_(torch.from_numpy(np.where(steer.pages < 0, NO_LIMIT, steer.pages).astype(np.int32)))
        self._until = step + steer.steps
        return ""

    def begin_step(self, step: int) -> None:
        """Return to our own values when the steering has run out."""
        if self._until is not None and step >= self._until:
            self.distance = [self._own] * len(self.distance)
            self.told.copy_(self._ours)
            self.least.fill_(math.nan)
            self.pages.fill_(NO_LIMIT)
            self._until = None

    def _reached(self) -> torch.Tensor:
        return torch.tensor([early if target >= early else 0 for target, early in enumerate(self.distance)])
