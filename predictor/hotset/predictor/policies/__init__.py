"""Policies by name, one file each. Modules load on first use, so that naming them costs nothing."""

from __future__ import annotations

from importlib import import_module

from hotset.predictor.policies.base import ListPolicy, Policy, PolicyError, RankedPolicy, SteeredPolicy

__all__ = ["POLICIES", "ListPolicy", "Policy", "PolicyError", "RankedPolicy", "SteeredPolicy", "get_policy"]

POLICIES: dict[str, str] = {
    "lru": "lru",
    "lfu": "lfu",
    "clock": "clock",
    "sieve": "sieve",
    "s3fifo": "s3fifo",
    "arc": "arc",
    "lirs": "lirs",
    "wtinylfu": "wtinylfu",
    "score": "score",
    "score-ema": "score_ema",
    "margin-ema": "margin_ema",
    "random": "random",
    "belady": "belady",
    "learned": "learned",
    "learned-prefetch": "learned_prefetch",
    "learned-lookahead": "learned_lookahead",
    "learned-lookahead-wide": "learned_lookahead_wide",
    "learned-device": "learned_device",
    "learned-device-wide": "learned_device_wide",
}
"""Policy name -> module of this package that holds its `POLICY`."""


def get_policy(name: str) -> Policy:
    """The policy of that name. Raises PolicyError if there is none."""
    if name not in POLICIES:
        raise PolicyError(f"no policy {name!r}; there are {', '.join(POLICIES)}")
    policy: Policy = import_module(f"{__name__}.{POLICIES[name]}").POLICY
    return policy
