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
    "lookahead-top": "lookahead_top",
    "learned": "learned",
    "learned-prefetch": "learned_prefetch",
    "learned-lookahead": "learned_lookahead",
    "learned-lookahead-wide": "learned_lookahead_wide",
    "learned-device": "learned_device",
    "learned-device-wide": "learned_device_wide",
}
"""Policy name -> module of this package that holds its `POLICY`."""


MIN_BUDGET, MAX_BUDGET = 0.01, 100.0


def get_policy(name: str) -> Policy:
    """The policy of that name; those that prefetch by lookahead take a budget, as `learned-device@1.4`.

    Raises PolicyError if there is none, or it takes no budget.
    """
    plain, at, budget = name.partition("@")
    if plain not in POLICIES:
        raise PolicyError(f"no policy {plain!r}; there are {', '.join(POLICIES)}")
    module = import_module(f"{__name__}.{POLICIES[plain]}")
    if not at:
        policy: Policy = module.POLICY
    elif hasattr(module, "at"):
        policy = module.at(_number(name, budget), name)
    else:
        raise PolicyError(f"policy {plain!r} takes no budget; leave @{budget} out")
    return policy


def _number(name: str, text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not MIN_BUDGET <= number <= MAX_BUDGET:
        raise PolicyError(f"{name!r}: after @ stands a budget of {MIN_BUDGET:g} to {MAX_BUDGET:g}")
    return number
