"""As `learned_lookahead`, with 1.6 times LRU's bytes: for links that have room."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hotset.predictor.policies.base import SteeredPolicy, Steering, SteeringContext
from hotset.predictor.policies.learned_lookahead import open_with

if TYPE_CHECKING:
    from hotset.predictor.model import ReuseModel

WIDE_BUDGET = 1.6


def _open(context: SteeringContext, model: ReuseModel | None) -> Steering:
    return open_with(WIDE_BUDGET, context, model)


POLICY = SteeredPolicy("learned-lookahead-wide", "prefetch by lookahead, 1.6 times LRU's bytes", open=_open, fresh=True)
