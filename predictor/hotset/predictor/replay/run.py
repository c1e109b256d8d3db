"""Replay a trace against policies, and report."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from hotset.predictor.policies import get_policy
from hotset.predictor.policies.base import ListPolicy, Policy, PolicyError, RankedPolicy, SteeredPolicy
from hotset.predictor.replay.batch import Batch, Member, make_batch
from hotset.predictor.replay.counts import Counts
from hotset.predictor.replay.link import LinkModel
from hotset.predictor.replay.listed import run_listed
from hotset.predictor.replay.valued import run_ranked, run_steered
from hotset.predictor.trace.sequence import Trace
from hotset.protos.trace import TraceMeta

if TYPE_CHECKING:
    from hotset.predictor.model import ReuseModel

Pool = Literal["lane", "shared"]
MAX_CELLS = 1 << 29
"""Lanes times pages that one replay keeps track of; about 25 bytes each."""
BOUNDS = ("lru", "belady")
"""The two policies between which gap_closed is measured."""


@dataclass(frozen=True)
class ReplayResult:
    """What one policy did with one pool; see docs/replay.md for each field."""

    policy: str
    pool: Pool
    ratio: float
    accesses: int
    demand_misses: int
    miss_ratio: float
    cold_fills: int
    prefetched_hits: int
    prefetched_pages: int
    prefetch_precision: float | None
    """prefetched_hits / prefetched_pages, None without prefetch"""
    moved_pages: int
    """demand misses and prefetched pages; cold fills are the same for all and not among them"""
    moved_bytes: int
    gap_closed: float | None
    """(LRU - policy) / (LRU - Belady) in demand misses of this pool; None if LRU leaves no gap"""
    stall_seconds: float
    replay_seconds: float


@dataclass(frozen=True)
class Timed:
    """Counts of one policy, and the seconds that counting took, compilation not included."""

    counts: Counts
    seconds: float


def slots_per_lane(meta: TraceMeta, ratio: float) -> int:
    """round(ratio * k). Raises PolicyError below k: a pool must hold what a step selects."""
    if not 1 <= ratio <= 1e6:
        raise PolicyError(f"ratio {ratio:g}: a pool must hold one selection, so the ratio is 1 or more")
    return round(ratio * meta.selected)


def replay(
    traces: Sequence[Trace],
    policy: str,
    *,
    ratio: float,
    pool: Pool = "lane",
    model: ReuseModel | None = None,
    link: LinkModel | None = None,
    seed: int = 0,
) -> ReplayResult:
    """Replay one policy over all sequences of all traces as one batch; rules in docs/replay.md.

    Raises PolicyError for an unknown policy, a missing model, a ratio below 1, or traces of different geometry.
    """
    return replay_many(traces, [policy], ratio=ratio, pool=pool, model=model, link=link, seed=seed)[0]


def replay_many(
    traces: Sequence[Trace],
    policies: Sequence[str],
    *,
    ratio: float,
    pool: Pool = "lane",
    model: ReuseModel | None = None,
    link: LinkModel | None = None,
    seed: int = 0,
) -> list[ReplayResult]:
    """As `replay`, for several policies; LRU and Belady, which gap_closed needs, run once."""
    batch = make_batch(traces)
    timed = {
        name: count(batch, name, ratio=ratio, pool=pool, model=model, seed=seed)
        for name in dict.fromkeys([*policies, *BOUNDS])
    }
    return [report(name, timed, batch.meta, ratio, pool, link or LinkModel()) for name in policies]


def count(
    batch: Batch, name: str, *, ratio: float, pool: Pool, model: ReuseModel | None = None, seed: int = 0
) -> Timed:
    """Count one policy, after a warm-up on two steps that compiles what it needs."""
    policy, slots = get_policy(name), slots_per_lane(batch.meta, ratio)
    cells = batch.page_count * (len(batch.order) if pool == "shared" else batch.members[0].lanes)
    if cells > MAX_CELLS:
        raise PolicyError(f"{cells} pages of all lanes to keep track of; replay takes at most {MAX_CELLS}")
    first = batch.members[0]
    short = Member(first.trace.head(2), first.meta, first.clock.head(2))
    _count(Batch(batch.meta, [short]), policy, slots, pool, model, seed)
    began = time.perf_counter()
    counts = _count(batch, policy, slots, pool, model, seed)
    return Timed(counts, time.perf_counter() - began)


def _count(batch: Batch, policy: Policy, slots: int, pool: Pool, model: ReuseModel | None, seed: int) -> Counts:
    shared = pool == "shared"
    if isinstance(policy, RankedPolicy):
        return run_ranked(batch, policy, slots, shared=shared)
    if isinstance(policy, ListPolicy):
        return run_listed(batch, policy, slots, shared=shared, seed=seed)
    if isinstance(policy, SteeredPolicy):
        return run_steered(batch, policy, slots, shared=shared, model=model)
    raise PolicyError(f"policy {policy.name!r} is of no known kind: {type(policy).__name__}")


def combine(parts: Iterable[Timed]) -> Timed:
    """Sum of parts of one batch, counted apart; there is at least one."""
    first, *others = parts
    counts, seconds = first.counts, first.seconds
    for part in others:
        counts, seconds = counts + part.counts, seconds + part.seconds
    return Timed(counts, seconds)


def report(
    name: str, timed: dict[str, Timed], meta: TraceMeta, ratio: float, pool: Pool, link: LinkModel
) -> ReplayResult:
    """The result of policy `name`; `timed` holds it and the two bounds."""
    counts = timed[name].counts
    lru, belady = (timed[bound].counts.demand_misses for bound in BOUNDS)
    prefetched = counts.prefetched_pages
    moved = counts.demand_misses + prefetched
    return ReplayResult(
        policy=name,
        pool=pool,
        ratio=ratio,
        accesses=counts.accesses,
        demand_misses=counts.demand_misses,
        miss_ratio=counts.demand_misses / counts.accesses if counts.accesses else 0.0,
        cold_fills=counts.cold_fills,
        prefetched_hits=counts.prefetched_hits,
        prefetched_pages=prefetched,
        prefetch_precision=counts.prefetched_hits / prefetched if prefetched else None,
        moved_pages=moved,
        moved_bytes=moved * meta.page_bytes,
        gap_closed=(lru - counts.demand_misses) / (lru - belady) if lru != belady else None,
        stall_seconds=link.stall_seconds(counts.demand, counts.prefetched, meta.page_bytes),
        replay_seconds=timed[name].seconds,
    )
