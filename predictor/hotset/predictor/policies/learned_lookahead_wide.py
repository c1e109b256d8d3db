"""As `learned_lookahead`, with 1.6 times LRU's bytes: for links that have room."""

from __future__ import annotations

from hotset.predictor.policies.learned_lookahead import at

WIDE_BUDGET = 1.6
POLICY = at(WIDE_BUDGET, "learned-lookahead-wide")
