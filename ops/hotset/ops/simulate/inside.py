"""What a simulated step decides between two layers, by the model that the daemon pushed: hotset.runtime.lookahead.

as layer l begins: for each layer t that is looked at from here, of what its recorded lookahead ranks
    prefetch, surest first: no slot and p above the layer's least probability; protect: resident and p >= PROTECTED
as layer t's turn comes: attention waits for what has not arrived, as the GPU backend does (docs/lookahead.md)
behind the step:         next-use head -> values of the candidates' slots

Probabilities are of the step before and of ranks, so that all layers' may be computed as the step begins.
"""

from __future__ import annotations

import itertools
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from hotset.ops.play.figures import Figures
from hotset.ops.play.inside import InsideStep, Ranked, protection
from hotset.ops.simulate import planned
from hotset.ops.simulate.node import Node
from hotset.ops.simulate.pool import SimPool
from hotset.ops.simulate.tables import Accesses, Playing, turned
from hotset.ops.simulate.wire import Wire
from hotset.ops.simulate.workload import Workload
from hotset.protos.errors import ConfigError, ModelError
from hotset.protos.lookahead import DELAYS, PROTECTED, UTILISATION_KEPT
from hotset.protos.messages import AccessFlag, Ack, InStep, LayerFigure
from hotset.runtime.engine import check_model

Int32 = npt.NDArray[np.int32]
Float32 = npt.NDArray[np.float32]


class Inside:
    """Nothing is decided inside a step. Also the interface that the engine uses.

    `held` counts pages that were worth a prefetch and found no room, `late` those that attention waited for.
    """

    version = ""
    held = late = 0

    def obey(self, wire: Wire, epoch: int) -> None:
        """Between two steps: take what the daemon sent for the inside of steps, and answer it."""

    def begin(self, batch: list[Playing]) -> None:
        """A step of `batch` begins."""

    def look(self, layer: int) -> int:
        """As `layer` begins, decide for those looked at from here; returns pages of prefetches begun."""
        return 0

    def land(self, layer: int) -> int:
        """`layer` asks for its pages: its prefetches become visible; returns how many pages have yet to arrive."""
        return 0

    def layer_us(self, layer: int) -> float:
        """What looking ahead adds to the compute of `layer`."""
        return 0.0

    def waited(self, layer: int, missed: int, late: int, wait_us: float) -> None:
        """Attention of `layer` waited for so many pages."""

    def settle(self, batch: list[Playing], done: Accesses, step_us: float) -> None:
        """The step is over, and took so long."""

    def told(self, evicted: Int32) -> dict[str, Int32]:
        """What a step message tells of the inside of the step, when `evicted` have lost their slot since the last."""
        return {}

    def forget(self, number: int, groups: list[int]) -> None:
        """A sequence has ended, and `groups` are free."""


class _Layer(NamedTuple):
    """Everything that is ranked for a layer, [m]: physical pages, and how surely the step uses them."""

    pages: Int32
    sure: Float32


class DeviceInside(Inside):
    """The device's decisions on a pool."""

    def __init__(self, workload: Workload, node: Node, pool: SimPool) -> None:
        """Raises ConfigError if the recordings have no lookahead."""
        self._step = lookahead_of(workload)
        self._node, self._pool = node, pool
        self._figures = Figures(pool.geometry)
        self._heads = pool.geometry.kv_heads
        self._batch: list[Playing] = []
        self._found: list[Ranked] = []
        self._layers: list[_Layer] = []
        self._waits: Int32 = np.zeros((2, pool.geometry.layers), np.int32)
        self._busy_us = self._utilisation = 0.0
        self._room = 0
        pool.wide = True

    @property
    def version(self) -> str:  # type: ignore[override]
        """Of the model in force."""
        return self._step.version

    def obey(self, wire: Wire, epoch: int) -> None:
        """See Inside."""
        for model in wire.take_models():
            try:
                reason = self._step.take(check_model(model))
            except ModelError as error:
                reason = str(error)
            wire.publish(Ack(of="model", number=model.number, accepted=not reason, reason=reason))
        if (steer := wire.take_lookahead()) is not None:
            reason = self._step.follow(steer, epoch)
            wire.publish(Ack(of="lookahead", number=steer.number, accepted=not reason, reason=reason))
        self._step.begin_step(epoch)

    def begin(self, batch: list[Playing]) -> None:
        """See Inside."""
        self._batch, self._busy_us = batch, 0.0
        self._waits[:] = 0
        self._found = [self._step.look(playing.number, _ranks(playing, self._heads)) for playing in batch]
        pages = np.concatenate([_physical(p, f, self._pool.lanes) for p, f in zip(batch, self._found, strict=True)])
        sure = np.concatenate([found.sure for found in self._found])
        layers = np.concatenate([found.lanes for found in self._found]) // self._heads
        order = np.argsort(layers, kind="stable")
        ends = np.searchsorted(layers[order], np.arange(self._pool.geometry.layers + 1))
        self._layers = [
            _Layer(pages[order[first:end]], sure[order[first:end]]) for first, end in itertools.pairwise(ends)
        ]
        # Two layers' prefetches never hold slots that a layer might need.
        self._room = self._pool.spare(len(batch) * self._heads * self._pool.geometry.selected) // 2

    def look(self, layer: int) -> int:
        """See Inside."""
        return sum(self._decide(target) for target in self._targets(layer))

    def land(self, layer: int) -> int:
        """See Inside."""
        late = self._pool.land(layer)
        self.late += late
        return late

    def layer_us(self, layer: int) -> float:
        """See Inside."""
        return len(self._targets(layer)) * self._node.ahead_us(len(self._batch))

    def waited(self, layer: int, missed: int, late: int, wait_us: float) -> None:
        """See Inside."""
        link_us = wait_us * late / max(1, missed + late)
        self._waits[:, layer] = round(wait_us - link_us), round(link_us)
        # The flight's own time on the link was counted as it began.
        self._busy_us += wait_us - link_us

    def settle(self, batch: list[Playing], done: Accesses, step_us: float) -> None:
        """See Inside."""
        pool, until = self._pool, self._pool.tick + self._node.plan_lifetime * self._pool.geometry.layers
        self._figures.used(np.unique(done.physical[(done.flags & AccessFlag.PREFETCHED) > 0]))
        missed = np.unique(done.physical[done.selected & ((done.flags & AccessFlag.HIT) == 0)])
        self._figures.lost(missed)
        self._figures.demanded(missed)
        for i, playing in enumerate(batch):
            told = self._step.settle(playing.number, playing.length, done.pages[i], done.scores[i], done.selected[i])
            if told is not None:
                lanes, pages, values = told
                physical = np.array(playing.groups, np.int32)[pages] * np.int32(pool.lanes) + lanes
                planned.write_values(pool.s, physical, values, until)
        share = min(1.0, self._busy_us / step_us) if step_us else 0.0
        self._utilisation = UTILISATION_KEPT * self._utilisation + (1 - UTILISATION_KEPT) * share

    def told(self, evicted: Int32) -> dict[str, Int32]:
        """See Inside."""
        self._figures.lost(evicted)
        least = np.maximum(self._step.least, np.float32(min(self._price(), 10.0)))
        figures = self._figures.take(self._step.distance, least)
        figures[LayerFigure.COPY_STALL_US], figures[LayerFigure.LINK_STALL_US] = self._waits
        ranks = {f"lookahead_{d}": np.concatenate([f.ranks[d] for f in self._found]) for d in self._step.distances}
        return {**ranks, "by_layer": figures}

    def forget(self, number: int, groups: list[int]) -> None:
        """See Inside."""
        self._step.forget(number)
        lanes = np.arange(self._pool.lanes, dtype=np.int32)
        self._figures.lost((np.array(groups, np.int32)[:, None] * np.int32(self._pool.lanes) + lanes).ravel())

    def _targets(self, layer: int) -> list[int]:
        nearby = range(layer + 1, min(layer + 3, self._pool.geometry.layers))
        return [target for target in nearby if self._step.distance[target] == target - layer]

    def _price(self) -> float:
        """Least probability that pays for its place on the link: kernels.decide.least_probability."""
        return DELAYS / (1 - self._utilisation) if self._utilisation < 1 else float("inf")

    def _decide(self, target: int) -> int:
        pages, sure = self._layers[target]
        pool, step = self._pool, self._step
        here = pool.s.slot_of[pages] >= 0
        likely = here & (sure >= PROTECTED)
        planned.write_values(pool.s, pages[likely], protection(sure[likely]), pool.tick + pool.geometry.layers)
        planned.rescue(pool.s, pages[likely])
        worth = np.flatnonzero(~here & (sure > max(float(step.least[target]), self._price())))
        worth = worth[np.argsort(-sure[worth], kind="stable")]
        limit = len(self._batch) * self._heads * pool.geometry.selected
        chosen = pages[worth[: min(int(step.pages[target]), limit, self._room)]]
        begun = pool.begin_ahead(chosen, target)
        self._figures.prefetched(begun, "step")
        self._figures.held(np.setdiff1d(pages[worth], begun))
        self.held += len(worth) - len(begun)
        self._busy_us += len(begun) * self._node.page_us(pool.geometry.page_bytes)
        return len(begun)


def lookahead_of(workload: Workload) -> InsideStep:
    """What the device knows of the workload's sequences. Raises ConfigError if one was recorded without a lookahead."""
    traces = {request.source: request.trace for request in workload.requests}
    step = InsideStep(workload.meta, list(traces.values()))
    if not step.distances:
        raise ConfigError(
            "policy learned-device needs recordings of a lookahead in every trace; "
            "record with `hotset decode --lookahead 1`, or leave out the traces that have none"
        )
    return step


def in_step_of(workload: Workload) -> InStep:
    """What the daemon is told of it. Raises ConfigError as `lookahead_of`."""
    return lookahead_of(workload).in_step


def _ranks(playing: Playing, heads: int) -> dict[int, Int32]:
    """[lanes, r] by distance, as the copy turns its layers; the first ones have nothing to look ahead from."""
    found = {}
    for early, recorded in playing.request.trace.lookahead.items():
        ranks = recorded[playing.row][turned(playing.request, recorded.shape[1], heads)]
        ranks[: early * heads] = -1
        # A page that the sequence does not have yet is none.
        found[early] = np.where(ranks < len(playing.groups), ranks, -1).astype(np.int32)
    return found


def _physical(playing: Playing, found: Ranked, lanes: int) -> Int32:
    physical: Int32 = np.array(playing.groups, np.int32)[found.pages] * np.int32(lanes) + found.lanes
    return physical
