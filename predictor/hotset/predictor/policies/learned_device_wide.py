"""As `learned_device`, with 1.6 times LRU's bytes: for links that have room."""

from __future__ import annotations

from hotset.predictor.policies.learned_device import at
from hotset.predictor.policies.learned_lookahead_wide import WIDE_BUDGET

POLICY = at(WIDE_BUDGET, "learned-device-wide")
