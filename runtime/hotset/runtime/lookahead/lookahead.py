"""Inside a step, between two layers: rank a later layer's pages, decide what to prefetch, learn what was used.

as layer l begins: for each layer t looked at from here (t = l + its distance)
    ranks = top WIDTH of the scores of t's pages under t's query, estimated from what enters l
    p     = use head(features as of the step before, ranks); without a model nothing; `bare`: 1 for the first k
    prefetch, surest first: no slot and p above the least probability; protect: resident and p >= PROTECTED
as layer l has selected: observe it; next-use head(features) -> values of its candidates' slots
"""

from __future__ import annotations

from typing import Any

import torch

from hotset.kernels.decide import decide, write_values
from hotset.kernels.forest import forest
from hotset.kernels.select import physical_pages
from hotset.protos.device_features import DEVICE_FEATURES_HASH, PAGE_FEATURES_HASH
from hotset.protos.errors import ConfigError
from hotset.protos.messages import InStep, LayerFigure, Model
from hotset.protos.messages import Lookahead as Steer
from hotset.runtime.groups import Sequence
from hotset.runtime.lookahead.book import Clocks, FeatureBook, FeaturePage
from hotset.runtime.lookahead.estimate import QueryEstimate
from hotset.runtime.lookahead.model import DeviceHeads
from hotset.runtime.lookahead.price import LinkPrice
from hotset.runtime.lookahead.ranks import rank_pages
from hotset.runtime.lookahead.settings import LayerSettings
from hotset.runtime.paged_kv import PagedKV
from hotset.runtime.selectors import Batch, Selector

_ONE_STEP = 1


class Lookahead:
    """Looks ahead for one Decoder. Which tokens come out does not depend on it."""

    def __init__(self, kv: PagedKV, selector: Selector, model: Any, *, padded: int = 0) -> None:
        """Steps may have so many `padded` rows. Raises ConfigError for a model that cannot be looked ahead in."""
        config, device = kv.config, kv.manager.rows.device
        if not config.tiered:
            raise ConfigError("without tiers every page is where it is needed; use --lookahead off")
        self.kv, self.selector = kv, selector
        self.width = 2 * config.selected
        self.estimate = QueryEstimate(model, self._enter, fused=device.type == "cuda")
        self.settings = LayerSettings(kv.shape.layers, config.lookahead, device)
        self.price = LinkPrice(kv.manager.link, kv.manager.page_bytes, device, kv.manager.link_time)
        self.heads = DeviceHeads(device)
        self.book = FeatureBook(kv, self.width, spare=padded) if config.lookahead_prefetch == "learned" else None

    @property
    def in_step(self) -> InStep:
        """What a daemon is told."""
        learned = self.book is not None
        return InStep(
            distances=[1, 2],
            ranks=self.width,
            models=learned,
            value_features=PAGE_FEATURES_HASH if learned else "",
            use_features=DEVICE_FEATURES_HASH if learned else "",
        )

    def begin(self, sequences: list[Sequence], batch: Batch, epoch: int) -> LookaheadPass:
        """For one decode step of a CPU."""
        self.settings.begin_step(epoch)
        if self.book is None:
            return LookaheadPass(self, batch, None)
        clocks = torch.from_numpy(self.book.clocks(sequences, rows=len(sequences)))
        return LookaheadPass(self, batch, Clocks(*clocks))

    @property
    def shape(self) -> tuple[object, ...]:
        """What a captured step fixes: it holds for this alone."""
        return (*self.settings.distance, self.heads.tables)

    def end_step(self, seconds: float) -> None:
        """The step took `seconds`."""
        self.price.end_step(seconds)

    def take_model(self, model: Model) -> str:
        """Between steps: decide by `model` from now on; why not, or nothing."""
        return self.heads.take(model) if self.book else "unsupported: this runtime was told not to use models"

    def follow(self, steer: Steer, epoch: int) -> str:
        """Between steps: be steered; why not, or nothing."""
        return self.settings.follow(steer, epoch)

    def close(self) -> None:
        """Leave the model as it was."""
        self.estimate.close()

    def _enter(self, done: Any, layer: int, hidden: torch.Tensor, rotary: Any) -> None:
        ahead = getattr(done, "ahead", None)
        if isinstance(ahead, LookaheadPass) and ahead.owner is self:
            ahead.look(layer, hidden, rotary)


class LookaheadPass:
    """One step of a Lookahead. `clocks` are those of the batch's rows, None without a FeatureBook."""

    def __init__(self, owner: Lookahead, batch: Batch, clocks: Clocks | None) -> None:
        self.owner, self.batch = owner, batch
        shape, config = owner.kv.shape, owner.kv.config
        none = torch.full((batch.groups.shape[0], shape.kv_heads, owner.width), -1, dtype=torch.int32,
                          device=batch.groups.device)  # fmt: skip
        self._ranks = [none] * shape.layers
        self.distance = list(owner.settings.distance)
        owner.kv.manager.figures.now[LayerFigure.DISTANCE].copy_(owner.settings.told)
        self._bare = config.lookahead_prefetch == "bare"
        self._limit = none.shape[0] * shape.kv_heads * config.selected
        # The token of this step is in none of the later layers yet; where it opens a page, the page's bounds are stale.
        opened = ((batch.lengths - 1) % config.page_size == 0).to(torch.int32)
        # Padded rows have neither pages nor tokens.
        self._known = Batch(batch.groups, (batch.pages - opened).clamp(min=0), (batch.lengths - 1).clamp(min=0))
        self.features: FeaturePage | None = None
        if owner.book is not None and clocks is not None:
            self.features = FeaturePage(owner.book, batch, self._known.pages, clocks)
        if self._bare:
            # The first k are sure, the others are not.
            first = torch.arange(owner.width, device=none.device) < config.selected
            self._sure = first.float().expand(none.shape).flatten()
        if self._decides:
            budget = owner.settings.least
            self._least = torch.zeros_like(budget) if self._bare else owner.price.least(budget)
            told = (self._least * 1e4).clamp(max=1e5).long()
            owner.kv.manager.figures.now[LayerFigure.LEAST].copy_(told * (owner.settings.told > 0))

    @property
    def _decides(self) -> bool:
        return self._bare or (self.features is not None and self.owner.heads.use is not None)

    @property
    def ranks(self) -> torch.Tensor:
        """What the step acted upon, [layers, B, Hkv, width] int32, -1 for none: a copy."""
        return torch.stack(self._ranks)

    @property
    def ranks_by_layer(self) -> list[torch.Tensor]:
        """The same, not copied: [B, Hkv, width] each."""
        return self._ranks

    def look(self, layer: int, hidden: torch.Tensor, rotary: Any) -> None:
        """Layer `layer` begins with `hidden` [rows, 1, hidden]: decide for the layers that are looked at from here."""
        for target in self.owner.settings.targets(layer):
            self.rank(target, *self.owner.estimate.query(target, hidden, rotary))
            self._decide(target)

    def rank(self, target: int, query: torch.Tensor, scale: float) -> None:
        """Rank the pages of layer `target` by `query` [rows, Hq, D], of which the batch's rows count."""
        mass = self.owner.selector.mass(self._known, query[: len(self._known.pages)], target, scale)
        recent = self.owner.kv.config.recent
        self._ranks[target] = rank_pages(mass, self.batch.pages, recent=recent, width=self.owner.width)

    def settle(self, layer: int, ids: torch.Tensor, scores: torch.Tensor, flags: torch.Tensor | None = None) -> None:
        """Layer `layer` has selected: ids, scores, flags [B, Hkv, n]; without flags the first k of the ids."""
        if self.features is None:
            return
        self.features.observe(layer, ids, scores, flags)
        if (head := self.owner.heads.value) is not None:
            values = forest(head, self.features.columns(layer, ids).flatten(1).T)
            kv = self.owner.kv
            write_values(kv.manager.state, self._physical(ids, layer), values, steps=kv.config.plan_lifetime)

    def _decide(self, target: int) -> None:
        probability = self._probability(target)
        if probability is None:
            return
        settings, manager = self.owner.settings, self.owner.kv.manager
        made = decide(
            manager.state, self._physical(self._ranks[target], target), probability, self._least[target : target + 1],
            limit=self._limit, protect=_ONE_STEP, unknown=self.features.first if self.features else None,
            count=manager.wanted_ahead(target),
        )  # fmt: skip
        manager.prefetch_ahead(made.prefetch, target, made.wanted, settings.pages[target : target + 1])

    def _probability(self, target: int) -> torch.Tensor | None:
        """Of use at this step of all that is ranked for `target`, [m] float32; None if nobody decides."""
        if self._bare:
            return self._sure
        if self.features is None:
            return None
        columns = self.features.ranked(target, self._ranks[target])
        head = self.owner.heads.use
        return None if head is None else forest(head, columns.flatten(1).T)

    def _physical(self, ids: torch.Tensor, layer: int) -> torch.Tensor:
        kv = self.owner.kv
        return physical_pages(
            ids.contiguous(), self.batch.groups, layer=layer, kv_heads=kv.shape.kv_heads, lanes=kv.lanes
        ).flatten()
