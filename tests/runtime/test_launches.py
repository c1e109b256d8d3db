"""How much a step that looks ahead launches beside the model's own ops: it must not creep up again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from backend_kit import INTERPRETED
from launches import Launches
from lookahead_kit import decoder_of, learn, logged, message, steer

from hotset.kernels.dispatch import interpreting
from hotset.protos.device_model import DeviceModel
from hotset.runtime.gpu import InlineDevice
from hotset.runtime.gpu.ahead import AheadFlights
from hotset.runtime.lookahead.estimate import QueryEstimate
from hotset.runtime.lookahead.lookahead import LookaheadPass

pytestmark = pytest.mark.skipif(not INTERPRETED, reason="kernels that are compiled are not counted")
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
