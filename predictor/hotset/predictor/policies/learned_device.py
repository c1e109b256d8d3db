"""Learned on the device: as `learned_lookahead`, with what the device can know and evaluate between two layers.

a layer early: p = use head(DEVICE_FEATURES of the page: 16 bytes of state, and its rank), for every ranked page
prefetch, protect: as in `learned_lookahead`
victim:        the largest next-use value of the device's other head
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from hotset.predictor.device.lookahead import new_device_lookahead
from hotset.predictor.device.state import DeviceState
from hotset.predictor.policies.base import PolicyError, SteeredPolicy, Steering, SteeringContext
from hotset.predictor.policies.learned_lookahead import DEFAULT_BUDGET, LookaheadSteering

if TYPE_CHECKING:
    from hotset.predictor.model import ReuseModel


def open_with(budget: float, context: SteeringContext, model: ReuseModel | None) -> Steering:
    """A steering that moves `budget` times what LRU would. Raises PolicyError without the device's heads."""
    if model is None or model.device is None:
        raise PolicyError("this policy needs a model with heads for the device, trained on a log with a lookahead")
    meta, pages = context.meta, context.page_count
    state = DeviceState(layers=meta.layers, kv_heads=meta.kv_heads, page_size=meta.page_size, pages=pages)
    return LookaheadSteering(context, model.device, budget, (state, new_device_lookahead(pages, meta)))


def at(budget: float, name: str) -> SteeredPolicy:
    """The policy that moves `budget` times what LRU would."""
    summary = f"the device's model alone, {budget:g} times LRU's bytes"
    return SteeredPolicy(name, summary, open=partial(open_with, budget), fresh=True)


POLICY = at(DEFAULT_BUDGET, "learned-device")
