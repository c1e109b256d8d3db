"""Torch reference of the reclaimer: rank slots by value and reserve the worst."""

from __future__ import annotations

import torch

from hotset.kernels.reserve import push_reserve, reserve_level
from hotset.kernels.state import FREE, LIVE, ResidencyState

POLICIES = ("score-ema", "lru")
_TIE = 2.0**-40


def effective_value(state: ResidencyState, policy: str) -> torch.Tensor:
    """Value of every slot, [S] float64: a plan's while it is fresh, else the built-in policy's; larger is colder.

    lru: log2(1 + age in steps). score-ema: octaves of the page's average score below full attention mass, so
    that half the mass counts as twice the time to the next use. Equal values are ordered by age.
    """
    age = (state.tick - state.last_used).double() / state.ticks_per_step
    if policy == "lru":
        builtin = torch.log2(1 + age)
    elif policy == "score-ema":
        builtin = (255.0 - state.ema[state.page_of.clamp(min=0).long()].double()) / 8
    else:
        raise ValueError(f"unknown built-in policy {policy!r}; choose one of {', '.join(POLICIES)}")
    planned = state.value_until >= state.tick
    return torch.where(planned, state.value.double(), builtin) + age * _TIE


def reclaim(state: ResidencyState, *, low: int, high: int, policy: str) -> int:
    """If the reserve is below `low`, fill it up to `high`; return how many slots were reserved.

    Free slots go first, then live slots that the current step did not use, worst value first. PINNED and
    FILLING slots are never touched.
    """
    level = reserve_level(state)
    if level >= low:
        return 0
    return _reserve(state, high - level, state.step_tick, policy)


def reclaim_inline(state: ResidencyState, count: int, policy: str) -> int:
    """Reserve `count` more slots because a resolve ran dry; may fall back on slots that earlier layers used."""
    done = _reserve(state, count, state.step_tick, policy)
    if done < count:
        done += _reserve(state, count - done, state.tick, policy)
    return done


def _reserve(state: ResidencyState, count: int, used_since: torch.Tensor, policy: str) -> int:
    free = torch.nonzero(state.state == FREE).flatten()[:count]
    push_reserve(state, free)
    count -= free.numel()
    if count <= 0:
        return free.numel()
    evictable = (state.state == LIVE) & (state.last_used < used_since)
    value = effective_value(state, policy)
    value[~evictable] = -torch.inf
    victims = torch.topk(value, min(count, int(evictable.sum()))).indices
    push_reserve(state, victims)
    return free.numel() + victims.numel()
