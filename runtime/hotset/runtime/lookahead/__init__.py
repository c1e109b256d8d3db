"""Lookahead: which pages a later layer will want, told a layer or two early, and what to prefetch of them."""

from hotset.runtime.lookahead.lookahead import Lookahead, LookaheadPass

__all__ = ["Lookahead", "LookaheadPass"]
