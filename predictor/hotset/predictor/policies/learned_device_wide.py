"""As `learned_device`, with 1.6 times LRU's bytes: for links that have room."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hotset.predictor.policies.base import SteeredPolicy, Steering, SteeringContext
from hotset.predictor.policies.learned_device import open_with
from hotset.predictor.policies.learned_lookahead_wide import WIDE_BUDGET

if TYPE_CHECKING:
    from hotset.predictor.model import ReuseModel


def _open(context: SteeringContext, model: ReuseModel | None) -> Steering:
    return open_with(WIDE_BUDGET, context, model)


POLICY = SteeredPolicy("learned-device-wide", "the device's model alone, 1.6 times LRU's bytes", open=_open, fresh=True)
