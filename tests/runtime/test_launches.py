"""How much a step launches outside its graphs, and one that looks ahead beside the model: it must not grow."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any, TypeVar, cast

import numpy as np
import pytest
import torch
from backend_kit import INTERPRETED, Listener
from launches import Launches
from lookahead_kit import decoder_of, learn, logged, message, steer

from hotset.kernels.dispatch import interpreting
from hotset.protos.device_model import DeviceModel
from hotset.runtime.gpu import InlineDevice
from hotset.runtime.gpu.ahead import AheadFlights
from hotset.runtime.gpu.captured import WARM_UPS
from hotset.runtime.lookahead.estimate import QueryEstimate
from hotset.runtime.lookahead.lookahead import LookaheadPass
from hotset.runtime.residency import ResidencyManager
from hotset.runtime.steering import Steering

pytestmark = pytest.mark.skipif(not INTERPRETED, reason="kernels that are compiled are not counted")
T = TypeVar("T")
STEPS = 2
SIZES = {"page_size": 2, "selected": 3, "recent": 1, "max_tokens": 60, "max_sequences": 1, "prefill_chunk": 8,
         "hbm_pages": 40, "graphs": False}  # fmt: skip


@pytest.fixture(scope="module")
def trained(model: Any) -> DeviceModel:
    decoder = decoder_of(model, lookahead=1)
    try:
        return learn(logged(decoder, 12))
    finally:
        decoder.close()


def launches(small: Any, patch: pytest.MonkeyPatch, way: str, model: DeviceModel | None, held: bool) -> Counter[str]:
    """Of one layer that is looked ahead at, from its ranks until its values: by name, without the estimated query."""
    counter = Launches()
    with interpreting():
        decoder = decoder_of(small, device=InlineDevice(), lookahead=1, lookahead_prefetch=way, **SIZES)
        assert decoder.ahead is not None
        if model is not None:
            assert decoder.ahead.take_model(message(model.to_bytes())) == ""
        if held:
            assert decoder.ahead.follow(steer(pages=[0] * 2, least=[np.nan] * 2, distance=[-1] * 2), 0) == ""
        decoder.open(list(range(3, 25)), max_new_tokens=8)
        decoder.step()
        for owner, name in ((LookaheadPass, "look"), (LookaheadPass, "settle"), (AheadFlights, "settle")):
            patch.setattr(owner, name, counter.counted(getattr(owner, name)))
        patch.setattr(QueryEstimate, "query", counter.counted(QueryEstimate.query, counts=False))
        for _ in range(STEPS):
            decoder.step()
        decoder.close()
    # Of two layers one is looked ahead at; both settle.
    return counter.found


@pytest.mark.parametrize(
    ("way", "held", "most"), [("off", False, 3), ("bare", False, 16), ("learned", False, 32), ("learned", True, 32)]
)
def test_a_layer_that_is_looked_ahead_at_launches_no_more_than_it_did(
    way: str, held: bool, most: int, trained: DeviceModel, make_model: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """The bounds are what was counted last: lower them with every launch that goes."""
    model = trained if way == "learned" else None
    found = launches(make_model(num_hidden_layers=2), monkeypatch, way, model, held)
    assert found["_select"] == STEPS, "the count is not of one layer a step"
    assert sum(found.values()) <= most * STEPS, found.most_common()


class Replays(InlineDevice):
    """What a graph replays does not count."""

    def __init__(self, counter: Launches) -> None:
        super().__init__()
        self._counter = counter

    def capture(self, body: Callable[[], T]) -> Callable[[], T]:
        return cast(Callable[[], T], self._counter.counted(super().capture(body), counts=False))


class Plans(Listener):
    """A plan at every step, as a daemon sends it."""

    def apply(self, manager: ResidencyManager, epoch: int, patience: float = 0.0) -> None:
        pages, generations = torch.arange(40, dtype=torch.int32), torch.zeros(40, dtype=torch.int64)
        tick = manager.tick()
        manager.follow((pages, generations, torch.full((40,), 2.0)), (pages, generations), epoch_tick=tick,
                       until_tick=tick + 9, tell=lambda applied, rejected: None)  # fmt: skip


@pytest.mark.parametrize(("steering", "most"), [(Steering, 3), (Listener, 4), (Plans, 22)])
def test_a_captured_step_launches_little_outside_its_graphs(
    steering: type[Steering], most: int, make_model: Callable[..., Any]
) -> None:
    """Inputs go up, tokens go to the next step and come down, as the record does.

    The bounds are what was counted last: lower them.

    A plan is packed on the host (six of its ops), goes up in one copy, and is prefetched and committed.
    """
    counter = Launches()
    with interpreting():
        sizes = {**SIZES, "page_size": 8, "hbm_pages": 60, "graphs": True}
        decoder = decoder_of(make_model(num_hidden_layers=1), device=Replays(counter), **sizes)
        decoder.open(list(range(3, 28)), max_new_tokens=30)
        decoder.steering = steering()
        while decoder.steps.warming or decoder.epoch < WARM_UPS:
            decoder.step()
        found = []
        for _ in range(6):
            counter.found.clear()
            with counter.counting():
                decoder.step()
            found.append(Counter(counter.found))
        decoder.close()
    # A step that opens or seals a tail does more.
    least = min(found, key=lambda step: step.total())
    assert least.total() <= most, least.most_common()
