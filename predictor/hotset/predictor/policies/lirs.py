"""LIRS: pages of low inter-reference recency (LIR) stay; a small queue Q of the others (HIR) gives victims.

LIR hit:          move to the top of stack S; prune (drop HIR pages from S's bottom)
HIR hit, in S:    becomes LIR; the bottom LIR of S becomes HIR at Q's end; prune. Not in S: to S's top, Q's end
miss:             evict Q's front (it stays in S as a ghost); a ghost in S becomes LIR, as in a HIR hit in S;
                  any other page becomes HIR, at S's top and Q's end. The first c - |Q| pages become LIR.

Jiang and Zhang, "LIRS: an efficient low inter-reference recency set replacement policy", SIGMETRICS 2002. Q gets
1% of the slots, at least one. If all of Q is in use, the bottom LIR goes instead.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from numba import njit

from hotset.predictor.policies.base import Demand, ListPolicy
from hotset.predictor.policies.queues import NOWHERE, Queues, make_queues, move, oldest, push, remove
from hotset.predictor.trace.sequence import Bool, Int64

_Q_SHARE = 0.01
_IDLE, _IN_USE = range(2)


class _State(NamedTuple):
    stack: Queues
    queue: Queues
    """Q in two lists: pages in use in this step stand behind the others, and join them at the next"""
    lir: npt.NDArray[np.bool_]
    lirs: Int64
    """[1] how many"""
    limit: int
    """LIR pages at most"""
    stamp: Int64
    """[1] of the step that is being served"""


@njit(cache=True)
def _run(demand: Demand, capacity: int, key_count: int, seed: int) -> Bool:
    limit = max(capacity - max(int(capacity * _Q_SHARE), 1), 0)
    state = _State(
        make_queues(key_count, 1),
        make_queues(key_count, 2),
        np.zeros(key_count, np.bool_),
        np.zeros(1, np.int64),
        limit,
        np.zeros(1, np.int64),
    )
    missed = np.zeros(len(demand.keys), np.bool_)
    for group in range(len(demand.stamps)):
        low, high, stamp = demand.offsets[group], demand.offsets[group + 1], demand.stamps[group]
        _begin_step(state, stamp)
        for i in range(low, high):
            key = demand.keys[i]
            state.queue.used[key] = stamp
            missed[i] = not state.lir[key] and state.queue.where[key] == NOWHERE
            if not missed[i]:
                _hit(state, key)
        for i in range(low, high):
            if missed[i]:
                _miss(state, demand.keys[i], capacity)
    return missed


@njit(cache=True)
def _begin_step(state: _State, stamp: int) -> None:
    if state.stamp[0] != stamp:
        state.stamp[0] = stamp
        while state.queue.size[_IN_USE] > 0:
            move(state.queue, _IDLE, oldest(state.queue, _IN_USE))


@njit(cache=True)
def _resident(state: _State) -> int:
    return int(state.lirs[0] + state.queue.size.sum())


@njit(cache=True)
def _hit(state: _State, key: int) -> None:
    if state.lir[key]:
        move(state.stack, 0, key)
        _prune(state)
    elif state.stack.where[key] != NOWHERE:
        remove(state.queue, key)
        _become_lir(state, key)
    else:
        push(state.stack, 0, key)
        move(state.queue, _IN_USE, key)


@njit(cache=True)
def _miss(state: _State, key: int, capacity: int) -> None:
    if _resident(state) == capacity:
        if state.queue.size[_IDLE] == 0:
            _demote(state)
        remove(state.queue, oldest(state.queue, _IDLE))
    if state.stack.where[key] != NOWHERE or _resident(state) < state.limit:
        _become_lir(state, key)
    else:
        push(state.stack, 0, key)
        push(state.queue, _IN_USE, key)


@njit(cache=True)
def _become_lir(state: _State, key: int) -> None:
    """`key`, resident and not in Q, becomes LIR on top of S; the bottom LIR gives way if there are too many."""
    state.lir[key] = True
    state.lirs[0] += 1
    if state.stack.where[key] != NOWHERE:
        remove(state.stack, key)
    push(state.stack, 0, key)
    if state.lirs[0] > state.limit:
        _demote(state)
    else:
        _prune(state)


@njit(cache=True)
def _demote(state: _State) -> None:
    _prune(state)
    key = oldest(state.stack, 0)
    remove(state.stack, key)
    state.lir[key] = False
    state.lirs[0] -= 1
    push(state.queue, _IN_USE if state.queue.used[key] == state.stamp[0] else _IDLE, key)
    _prune(state)


@njit(cache=True)
def _prune(state: _State) -> None:
    """S's bottom is LIR, always."""
    while state.stack.size[0] > 0 and not state.lir[oldest(state.stack, 0)]:
        remove(state.stack, oldest(state.stack, 0))


POLICY = ListPolicy("lirs", "low inter-reference recency set", run=_run)
