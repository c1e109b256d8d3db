"""Bench of the in-step decision: a layer's features, both heads of the forest, the decision and the slots' values."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

from hotset.kernels.decide import decide, least_probability, write_values
from hotset.kernels.forest import DeviceForest, forest
from hotset.kernels.forest.bench import random_forest
from hotset.kernels.measure import Row, graph_us
from hotset.kernels.page_features import PageFeatures, Place, lookahead_columns, observe, page_columns
from hotset.kernels.select import physical_pages
from hotset.kernels.state import ResidencyState
from hotset.protos.device_features import DEVICE_FEATURES, PAGE_FEATURES, WORDS
from hotset.protos.forest import IDENTITY
from hotset.protos.messages import AccessFlag

LAYERS, PAGES = 4, 512
# (name, KV heads, pages selected); candidates are twice as many. 16 sequences of the first have 32K rows a layer.
SHAPES = [("Llama-3-8B", 8, 128), ("Qwen2.5-0.5B", 2, 64)]
BATCHES = (1, 4, 16)
TREES, LEAVES = 32, 31


@dataclass
class Layer:
    """All that the decision of one layer reads and writes."""

    features: PageFeatures
    residency: ResidencyState
    place: Place
    ids: torch.Tensor
    pages: torch.Tensor
    use: DeviceForest
    value: DeviceForest

    @classmethod
    def make(cls, batch: int, heads: int, selected: int, device: str = "cuda") -> Layer:
        """A layer of `batch` sequences of PAGES pages, a fifth of which are resident."""
        lanes, n = LAYERS * heads, min(2 * selected, PAGES)
        features = PageFeatures.create(
            groups=batch * PAGES, lanes=lanes, sequences=batch, ranks=n, selected=selected, device=device
        )
        residency = ResidencyState.create(
            slots=batch * PAGES * lanes // 5, groups=batch * PAGES, layers=LAYERS, kv_heads=heads, device=device
        )
        held = torch.randperm(residency.slot_of.numel(), device=device)[: residency.slots]
        residency.slot_of[held] = torch.arange(residency.slots, dtype=torch.int32, device=device)
        residency.page_of.copy_(held)
        groups = torch.randperm(batch * PAGES, device=device).int().view(batch, PAGES)
        rows = torch.arange(batch, dtype=torch.int32, device=device)
        place = Place(groups, rows, torch.full_like(rows, 7), 1, heads)
        ids = torch.rand(batch, heads, PAGES, device=device).argsort(-1)[..., :n].int().contiguous()
        heads_of = (
            DeviceForest.upload(random_forest(TREES, LEAVES, columns=len(names), link=link), device=device)
            for names, link in ((DEVICE_FEATURES, 1), (PAGE_FEATURES, IDENTITY))
        )
        return cls(features, residency, place, ids, torch.full_like(rows, PAGES), *heads_of)

    def rank(self) -> torch.Tensor:
        """Columns of the lookahead."""
        return lookahead_columns(self.features, self.place, self.ids, self.pages)

    def physical(self) -> torch.Tensor:
        """Physical pages of the candidates, [m]."""
        lanes = self.features.lanes
        place = self.place
        return physical_pages(
            self.ids, place.groups_of, layer=place.layer, kv_heads=place.kv_heads, lanes=lanes
        ).flatten()

    def ahead(self) -> torch.Tensor:
        """A layer early: what to prefetch."""
        sure = forest(self.use, self.rank().flatten(1).T)
        budget = torch.full((1,), math.nan, device=sure.device)
        least = least_probability(budget, torch.zeros_like(budget), link_us=1.0, saved_us=10.0)
        pages = self.physical()
        return decide(self.residency, pages, sure, least, limit=min(256, pages.numel()), protect=1).prefetch

    def settle(self) -> torch.Tensor:
        """After selection: learn what it took, and give the candidates' slots their values."""
        scores = torch.full(self.ids.shape, 200, dtype=torch.uint8, device=self.ids.device)
        flags = torch.zeros_like(scores)
        flags[..., : self.features.selected] = int(AccessFlag.SELECTED)
        observe(self.features, self.place, self.ids, scores, flags)
        columns = page_columns(self.features, self.place, self.ids, self.pages)
        values = forest(self.value, columns.flatten(1).T)
        write_values(self.residency, self.physical(), values, steps=2)
        return values


def run() -> list[Row]:
    """Microseconds of each part for one layer, all of it in captured graphs, and bytes of state a page."""
    return [_case(*shape, batch) for shape in SHAPES for batch in BATCHES]


def _case(name: str, heads: int, selected: int, batch: int) -> Row:
    layer = Layer.make(batch, heads, selected)
    columns, pages = layer.rank(), layer.physical()
    sure, half = forest(layer.use, columns.flatten(1).T), torch.full((1,), 0.5, device="cuda")
    limit = min(256, pages.numel())
    return {
        "shape": name,
        "batch": batch,
        "rows": pages.numel(),
        "rank columns us": graph_us(lambda _: layer.rank()),
        "use head us": graph_us(lambda _: forest(layer.use, columns.flatten(1).T)),
        "decide us": graph_us(lambda _: decide(layer.residency, pages, sure, half, limit=limit)),
        "a layer early, all us": graph_us(lambda _: layer.ahead()),
        "after selection, all us": graph_us(lambda _: layer.settle()),
        "state bytes a page": np.dtype(np.int32).itemsize * WORDS,
    }
