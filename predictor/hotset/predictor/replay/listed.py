"""Replay of policies whose order is a data structure: their compiled loop runs over a stream of demands."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from hotset.predictor.policies.base import Demand, ListPolicy
from hotset.predictor.replay.batch import Batch
from hotset.predictor.replay.counts import Counts
from hotset.predictor.trace.sequence import Bool, Int64


class _Stream(NamedTuple):
    """The demands of one pool, and where each group counts."""

    demand: Demand
    capacity: int
    key_count: int
    epochs: Int64
    """[G]"""
    layers: Int64
    """[G]"""
    cold: Bool
    """[G] first step of its sequence"""
    number: int = 0
    """of the pool; the same however sequences are grouped"""


def run_listed(batch: Batch, policy: ListPolicy, slots_per_lane: int, *, shared: bool, seed: int) -> Counts:
    """Replay a list policy; with lane pools, each lane runs alone with a seed of its own."""
    total = Counts.zeros(batch.epochs, batch.meta.layers)
    streams = [_shared_stream(batch, slots_per_lane)] if shared else _lane_streams(batch, slots_per_lane)
    for stream in streams:
        missed = policy.run(stream.demand, stream.capacity, stream.key_count, seed + stream.number)
        _count(total, stream, missed)
    return total


def _lane_streams(batch: Batch, slots: int) -> Iterator[_Stream]:
    for member in batch.members:
        trace = member.trace
        cold = np.arange(len(trace.steps)) == 0
        for lane in range(member.lanes):
            chosen = trace.selected[:, lane]
            layers = np.full(len(trace.steps), lane // batch.meta.kv_heads)
            demand = Demand(
                trace.pages[:, lane][chosen],
                _offsets(np.count_nonzero(chosen, axis=1)),
                (member.clock.epochs + 1).astype(np.int32),
            )
            number = trace.sequence * member.lanes + lane
            yield _Stream(demand, slots, trace.page_count, member.clock.epochs, layers, cold, number)


def _shared_stream(batch: Batch, slots: int) -> _Stream:
    """All demands of all members by turn; a key is lane * page_count + page over the lanes of the batch."""
    pages, sizes, turns, epochs, layers, cold = [], [], [], [], [], []
    lanes, page_count = batch.members[0].lanes, batch.page_count
    for number, member in enumerate(batch.members):
        chosen, steps = member.trace.selected, len(member.trace.steps)
        lane = np.arange(lanes)
        keys = member.trace.pages + ((number * lanes + lane) * page_count).astype(np.int32)[:, None]
        pages.append(keys[chosen])
        sizes.append(np.count_nonzero(chosen, axis=2).ravel())
        turns.append(member.clock.turns.ravel())
        epochs.append(np.repeat(member.clock.epochs, lanes))
        layers.append(np.tile(lane // batch.meta.kv_heads, steps))
        cold.append(np.repeat(np.arange(steps) == 0, lanes))
    order = np.argsort(np.concatenate(turns), kind="stable")
    size = np.concatenate(sizes)
    by_turn = np.empty(len(order), np.int64)
    by_turn[order] = np.arange(len(order))
    access_order = np.argsort(np.repeat(by_turn, size), kind="stable")
    epoch = np.concatenate(epochs)[order]
    return _Stream(
        Demand(np.concatenate(pages)[access_order], _offsets(size[order]), (epoch + 1).astype(np.int32)),
        slots * lanes * len(batch.members),
        page_count * lanes * len(batch.members),
        epoch,
        np.concatenate(layers)[order],
        np.concatenate(cold)[order],
    )


def _offsets(sizes: Int64) -> Int64:
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes, dtype=np.int64)])


def _count(total: Counts, stream: _Stream, missed: Bool) -> None:
    sums = np.concatenate([np.zeros(1, np.int64), np.cumsum(missed, dtype=np.int64)])
    misses = sums[stream.demand.offsets[1:]] - sums[stream.demand.offsets[:-1]]
    total.accesses += len(missed)
    total.cold_fills += int(misses[stream.cold].sum())
    np.add.at(total.demand, (stream.epochs, stream.layers), np.where(stream.cold, 0, misses))
