"""Replay of policies that value pages (ranked and steered), one step of the batch at a time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from hotset.predictor.policies.base import (
    Float64,
    PolicyError,
    Prefetch,
    RankedPolicy,
    SteeredPolicy,
    Steering,
    SteeringContext,
    StepView,
)
from hotset.predictor.replay.batch import Batch, Member
from hotset.predictor.replay.counts import Counts
from hotset.predictor.replay.pools import (
    COUNTS,
    MISSED,
    PREFETCHED,
    PREFETCHED_HITS,
    SELECTED,
    Pools,
    begin_step,
    make_pools,
    prefetch_step,
    residents,
    serve,
)
from hotset.predictor.trace.sequence import Bool, Int32, Int64

_NO_VALUES = np.empty((0, 0))


class _Row(NamedTuple):
    """Member number and its recorded step at an epoch."""

    member: int
    step: int


@dataclass
class _Run:
    """A replay under way: one batch on one set of pools."""

    batch: Batch
    pools: Pools
    counts: Counts
    values: list[Float64]
    """of ranked policies, by member"""
    steering: list[Steering]
    fresh: bool = False

    @property
    def lanes(self) -> int:
        return self.batch.members[0].lanes


def run_ranked(batch: Batch, policy: RankedPolicy, slots_per_lane: int, *, shared: bool) -> Counts:
    """Replay a ranked policy with lane pools (one member at a time, to save memory) or the shared pool."""
    total = Counts.zeros(batch.epochs, batch.meta.layers)
    for part in [batch] if shared else batch.split():
        values = [policy.values(m.trace, m.clock, m.meta) for m in part.members]
        pools = make_pools(len(part.order), part.page_count, slots_per_lane, shared=shared)
        _run(_Run(part, pools, total, values, []))
    return total


def run_steered(batch: Batch, policy: SteeredPolicy, slots_per_lane: int, *, shared: bool, model: Any) -> Counts:
    """Replay a steered policy. Raises PolicyError if it needs a model and none is given."""
    if policy.open is None or (policy.needs_model and model is None):
        raise PolicyError(f"policy {policy.name!r} needs a model; train one, or name it with --model")
    total = Counts.zeros(batch.epochs, batch.meta.layers)
    for part in [batch] if shared else batch.split():
        steering = [policy.open(_context(m, slots_per_lane), model) for m in part.members]
        pools = make_pools(len(part.order), part.page_count, slots_per_lane, shared=shared)
        _run(_Run(part, pools, total, [], steering, policy.fresh))
    return total


def _context(member: Member, slots_per_lane: int) -> SteeringContext:
    trace = member.trace
    return SteeringContext(member.meta, trace.sequence, trace.prompt_tokens, trace.page_count, slots_per_lane)


def _run(run: _Run) -> None:
    rows: dict[int, list[_Row]] = {}
    for number, member in enumerate(run.batch.members):
        for step, epoch in enumerate(member.clock.epochs.tolist()):
            rows.setdefault(epoch, []).append(_Row(number, step))
    order = run.batch.order
    for epoch in sorted(rows):
        _step(run, epoch, rows[epoch], order)


def _step(run: _Run, epoch: int, rows: list[_Row], order: Int64) -> None:
    trace = [run.batch.members[row.member].trace for row in rows]
    pages = _stack(run, rows, [s.pages[r.step] for s, r in zip(trace, rows, strict=True)], -1, np.int32)
    selected = _stack(run, rows, [s.selected[r.step] for s, r in zip(trace, rows, strict=True)], 0, np.bool_)
    values = np.empty((len(order), 0))
    if run.values:
        values = _stack(run, rows, [run.values[r.member][r.step] for r in rows], np.nan, np.float64)
    counts = np.zeros((len(order), COUNTS), np.int64)
    begin_step(run.pools, epoch)
    ahead = [_ask_prefetch(run, row) for row in rows]
    planned = [a if a is not None and a.early == 0 else None for a in ahead]
    if any(planned):
        prefetch_step(run.pools, epoch, order, *_stack_prefetch(run, rows, planned), counts)
        _count_prefetched(run, epoch, 0, counts)
    early = [a if a is not None and a.early > 0 else None for a in ahead]
    pending = _NO_VALUES
    if run.steering and run.fresh:
        pending = _fresh_values(run, rows, pages, selected)
    served = serve(
        run.pools, epoch, order, pages, selected, values, pending, *_stack_prefetch(run, rows, early), counts
    )
    if not served:
        raise PolicyError(f"step {epoch}: the pool cannot hold the pages selected in one step")
    for distance in {a.early for a in early if a is not None}:
        _count_prefetched(run, epoch, distance, counts)
    _count(run, epoch, rows, counts)
    if run.steering and not run.fresh:
        _stale_values(run, rows)


def _stack(run: _Run, rows: list[_Row], parts: list[npt.NDArray[Any]], pad: float, dtype: Any) -> Any:
    """Arrays [lanes, n] of the members in `rows` as [L, n], padded where a member does not step."""
    if len(run.batch.members) == 1:
        return parts[0]
    out = np.full((len(run.batch.members) * run.lanes, max(p.shape[1] for p in parts)), pad, dtype)
    for row, part in zip(rows, parts, strict=True):
        at = row.member * run.lanes
        out[at : at + run.lanes, : part.shape[1]] = part
    return out


def _stack_prefetch(run: _Run, rows: list[_Row], ahead: list[Prefetch | None]) -> tuple[Int32, Float64]:
    lanes = len(run.batch.members) * run.lanes
    found = [(row, a) for row, a in zip(rows, ahead, strict=True) if a is not None]
    if not found:
        return np.empty((lanes, 0), np.int32), np.empty((lanes, 0))
    mine = [row for row, _ in found]
    return (
        _stack(run, mine, [np.asarray(a.pages, np.int32) for _, a in found], -1, np.int32),
        _stack(run, mine, [np.asarray(a.values, np.float64) for _, a in found], np.inf, np.float64),
    )


def _ask_prefetch(run: _Run, row: _Row) -> Prefetch | None:
    """Nothing is prefetched for the first step of a sequence: its fills are cold."""
    if not run.steering or row.step == 0:
        return None
    trace = run.batch.members[row.member].trace
    at = row.member * run.lanes
    resident: Bool = run.pools.slot_of[at : at + run.lanes, : trace.page_count] >= 0
    lookahead = {early: ranks[row.step] for early, ranks in trace.lookahead.items()}
    return run.steering[row.member].prefetch(int(trace.lengths[row.step]), lookahead, resident)


def _observe(run: _Run, row: _Row) -> None:
    member = run.batch.members[row.member]
    trace, step = member.trace, row.step
    run.steering[row.member].observe(
        StepView(
            int(member.clock.epochs[step]),
            int(trace.lengths[step]),
            trace.pages[step],
            trace.scores[step],
            trace.selected[step],
        )
    )


def _fresh_values(run: _Run, rows: list[_Row], pages: Int32, selected: Bool) -> Float64:
    """Observe the step, then value what is resident or selected; [L, P], NaN elsewhere."""
    pending = np.full(run.pools.value.shape, np.nan)
    wanted = run.pools.slot_of >= 0
    lane, candidate = np.nonzero(selected)
    wanted[lane, pages[lane, candidate]] = True
    for row in rows:
        _observe(run, row)
        at = row.member * run.lanes
        lanes, mine = np.nonzero(wanted[at : at + run.lanes])
        pending[at + lanes, mine] = run.steering[row.member].values(lanes.astype(np.int32), mine.astype(np.int32))
    return pending


def _stale_values(run: _Run, rows: list[_Row]) -> None:
    """Observe the step, then value what is resident, for the steps to come."""
    lanes, pages = residents(run.pools)
    for row in rows:
        _observe(run, row)
        at = row.member * run.lanes
        low, high = np.searchsorted(lanes, (at, at + run.lanes))
        mine, theirs = lanes[low:high], pages[low:high]
        new = run.steering[row.member].values((mine - at).astype(np.int32), theirs)
        known = ~np.isnan(new)
        run.pools.value[mine[known], theirs[known]] = new[known]


def _count_prefetched(run: _Run, epoch: int, early: int, counts: Int64) -> None:
    per_layer = _by_layer(run, counts[:, PREFETCHED])
    run.counts.prefetched.setdefault(early, np.zeros_like(run.counts.demand))[epoch] += per_layer
    counts[:, PREFETCHED] = 0


def _count(run: _Run, epoch: int, rows: list[_Row], counts: Int64) -> None:
    run.counts.accesses += int(counts[:, SELECTED].sum())
    run.counts.prefetched_hits += int(counts[:, PREFETCHED_HITS].sum())
    missed = counts[:, MISSED]
    for row in rows:
        if row.step == 0:
            cold = missed[row.member * run.lanes : (row.member + 1) * run.lanes]
            run.counts.cold_fills += int(cold.sum())
            cold[:] = 0
    run.counts.demand[epoch] += _by_layer(run, missed)


def _by_layer(run: _Run, per_lane: Int64) -> Int64:
    meta = run.batch.meta
    summed: Int64 = per_lane.reshape(-1, meta.layers, meta.kv_heads).sum(axis=(0, 2))
    return summed
