"""The residency manager: which pages have a slot, and every movement between slots and the tiers below.

Who may touch what: the decode loop owns everything here. The prefetch thread only copies rows into slots
that are FILLING, which nobody reads before commit. Plans enter through `apply_plan` at safe points only.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext

import numpy as np
import torch

from hotset.kernels.apply_plan import REASONS as PLAN_REASONS
from hotset.kernels.apply_plan import apply_plan
from hotset.kernels.apply_plan import warm_up as warm_up_values
from hotset.kernels.held import give_back_slots, held_level, hold_slots, lend_slots
from hotset.kernels.prefetch import REASONS as PREFETCH_REASONS
from hotset.kernels.prefetch import begin_prefetch, commit_prefetch
from hotset.kernels.prefetch import warm_up as warm_up_fetches
from hotset.kernels.reclaim import reclaim
from hotset.kernels.release import release
from hotset.kernels.reserve import evict_pages, reserve_level
from hotset.kernels.resolve import PoolTooSmallError, Resolved, resolve
from hotset.kernels.state import FREE, LIVE, MOST_TICKS, PINNED, ResidencyState
from hotset.protos.errors import CapacityError
from hotset.protos.heat import CEILING, DECAY, EPSILON
from hotset.protos.messages import LayerFigure
from hotset.runtime.backing import BackingStore
from hotset.runtime.change_log import ChangeLog, Int32
from hotset.runtime.figures import Cause, LayerFigures, Movement
from hotset.runtime.host_link import HostLink
from hotset.runtime.prefetcher import Prefetcher
from hotset.runtime.step_prefetch import StepPrefetch


class ResidencyManager:
    """Slots, page states, the reserve and the tiers behind them, for `groups` groups of all lanes.

    `rows` [S, 2, page_size, head_dim] is the hot pool: K then V of a page of one lane.
    """

    def __init__(
        self,
        *,
        slots: int,
        groups: int,
        layers: int,
        kv_heads: int,
        row_shape: tuple[int, ...],
        dtype: torch.dtype,
        backing: BackingStore,
        policy: str,
        device: torch.device | str = "cpu",
        link: HostLink | None = None,
    ) -> None:
        self.state = ResidencyState.create(slots=slots, groups=groups, layers=layers, kv_heads=kv_heads, device=device)
        self.lanes = layers * kv_heads
        self.policy = "lru" if policy == "lru" else "score-ema"
        self.by_margin = policy == "margin-ema"
        self._average = torch.zeros_like(self.state.ema)
        self.backing = backing
        self.rows = torch.zeros((slots, *row_shape), dtype=dtype, device=device)
        self.page_bytes = self.rows[0].numel() * dtype.itemsize
        self.moved = Movement()
        self._set_watermarks(slots)
        self.link = link
        self.figures = LayerFigures(self.state, kv_heads)
        self._prefetcher = Prefetcher(backing, self.rows, link)
        self._ahead = StepPrefetch(self, self._prefetcher)
        self._changed = ChangeLog(self.state)
        self._stall = 0.0
        self._layer = -1

    def pages_of(self, groups: torch.Tensor) -> torch.Tensor:
        """Physical pages of all lanes of `groups` ([g] int64), [g, lanes] int64."""
        return groups[:, None] * self.lanes + torch.arange(self.lanes, device=groups.device)

    def slots_of(self, pages: torch.Tensor) -> torch.Tensor:
        """Slots of host page ids (any shape, int64), -1 where not resident; int64, beside the state."""
        return self.state.slot_of[self._ids(pages)].long()

    def generation(self, group: int) -> int:
        """How often `group` was freed."""
        return int(self.state.generation[group])

    def tick(self) -> int:
        """Resolve calls so far, or since they were counted anew, as they are once in days."""
        return int(self.state.tick)

    def _ids(self, ids: torch.Tensor) -> torch.Tensor:
        """Host ids as the state's tensors can be indexed by them."""
        return ids

    # Tails: pinned from their first token until they are sealed.

    def opens_next(self, tails: int) -> bool:
        """Whether so many tails should be opened while a step computes, for the next one, which then waits less."""
        return False

    def open_tails(self, groups: list[int]) -> None:
        """Pin one zeroed slot for every lane of `groups`, held ones first. Only between steps, as nothing is in use.

        Raises CapacityError if the pool cannot give all of them.
        """
        pages = self.pages_of(torch.tensor(groups)).flatten()
        self._ensure_evictable(pages.numel())
        self._hold(pages.numel() - held_level(self.state))
        self.rows[lend_slots(self.state, self._ids(pages))] = 0
        self._changed.loaded(pages)

    def copy_tail(self, source: int, target: int) -> None:
        """Copy-on-write: give `target` a pinned tail with the content of the tail group `source`."""
        self.open_tails([target])
        pages = self.pages_of(torch.tensor([source, target]))
        old, new = self.state.slot_of[self._ids(pages)].long()
        self.rows[new] = self.rows[old]

    def seal(self, groups: list[int]) -> None:
        """Write the full tails of `groups` through to the host; from now on evicting them is a metadata change."""
        pages = self.pages_of(torch.tensor(groups)).flatten()
        slots = self.slots_of(pages)
        self.store(pages, self.rows[slots])
        self.state.state.index_fill_(0, slots, LIVE)

    def park_tail(self, group: int) -> torch.Tensor:
        """Copy the tail of a sequence that pauses to the host and free its slots: [lanes, 2, page_size, D]."""
        slots = self.slots_of(self.pages_of(torch.tensor([group])).flatten())
        rows = self.rows[slots].cpu()
        evict_pages(self.state, slots)
        self.state.state[slots] = FREE
        self.moved.tail_pages += slots.numel()
        return rows

    def unpark_tail(self, group: int, rows: torch.Tensor) -> None:
        """Pin the tail of a sequence that goes on, with the content that park_tail gave. Raises as open_tails does."""
        self.open_tails([group])
        pages = self.pages_of(torch.tensor([group])).flatten()
        with self.link.carrying(rows.nbytes, demand=True) if self.link else nullcontext():
            self.rows[self.slots_of(pages)] = rows.to(self.rows.device)
        self.moved.tail_pages += pages.numel()

    def store(self, pages: torch.Tensor, rows: torch.Tensor) -> None:
        """Write sealed `pages` ([n] int64) through from `rows` without giving them slots (prefill)."""
        self.backing.store(pages, rows)
        self.moved.written_pages += pages.numel()

    def warm(self, pages: torch.Tensor) -> int:
        """Fill free slots with `pages` ([n] int64, best first), keeping the reserve's share; return how many."""
        pages = pages[(self.state.slot_of[pages] < 0) & self.backing.has(pages)]
        free = torch.nonzero(self.state.state == FREE).flatten()
        room = max(0, free.numel() - self.high)
        pages, slots = pages[:room], free[: min(room, pages.numel())]
        self._load(pages, slots)
        self.state.page_of[slots] = pages.to(torch.int32)
        self.state.slot_of[pages] = slots.to(torch.int32)
        self.state.state[slots] = LIVE
        self.state.last_used[slots] = self.state.tick
        self._changed.loaded(pages)
        self.moved.warm_pages += pages.numel()
        return pages.numel()

    def free(self, groups: list[int]) -> None:
        """Drop the pages of freed groups from every tier; older plans for them are stale from here on."""
        if groups:
            index = torch.tensor(groups)
            release(self.state, index)
            self._average[self.pages_of(index)] = 0.0
            self.backing.free(self.pages_of(index).flatten())

    # How many slots the hot set has: all that are neither pinned nor held.

    def hot_slots(self) -> int:
        """Slots that sealed pages may use now."""
        return self.state.slots - int((self.state.state == PINNED).sum()) - held_level(self.state)

    def resize(self, wanted: int) -> None:
        """Between steps: hold slots or give them back until the hot set has `wanted`, as far as that goes now."""
        before = self.hot_slots()
        if before > wanted:
            hold_slots(self.state, before - wanted, self.policy)
            self.keep_evicted()
        elif before < wanted:
            give_back_slots(self.state, wanted - before)
        if before != wanted:
            self._set_watermarks(self.hot_slots())

    def _hold(self, count: int) -> None:
        short = count - hold_slots(self.state, count, self.policy) if count > 0 else 0
        if short:
            self.commit_prefetches(wait=True)
            hold_slots(self.state, short, self.policy)
        self.keep_evicted()

    def _set_watermarks(self, slots: int) -> None:
        self.low = max(1, slots // 32)
        self.high = max(1, slots // 16)

    # A step: begin, then resolve layer by layer, then end.

    def begin_step(self) -> None:
        """A safe point: prefetches that have arrived become visible; a new step's uses start to count."""
        if (ticks := int(self.state.tick)) >= MOST_TICKS:
            self.state.rebase(ticks)
        self.state.step_tick.copy_(self.state.tick + 1)
        self._layer = -1
        self.figures.begin_step()
        self.commit_prefetches()

    def resolve(self, pages: torch.Tensor) -> Resolved:
        """Give the selected `pages` ([N] int32 physical, -1 pads) slots and data; swap in what missed."""
        self.state.tick += 1
        self._layer += 1
        self._waited(LayerFigure.LINK_STALL_US, self._ahead.settle(self._layer, pages))
        done = self._resolve(pages)
        missed = done.miss_pages.long()
        start = time.perf_counter()
        self._load(missed, done.miss_slots.long())
        self._waited(LayerFigure.COPY_STALL_US, time.perf_counter() - start)
        if missed.numel():
            self._changed.loaded(missed)
        moved = self.moved
        moved.accesses += int((pages >= 0).sum())
        moved.hits += int(done.hit.sum())
        fetched = done.slots[done.prefetched]
        moved.prefetched_hits += fetched.numel()
        moved.demand_pages += missed.numel()
        self.figures.add(LayerFigure.DEMAND_PAGES, self._layer, missed.numel())
        if fetched.numel():
            self.figures.used(done.slots[None], done.prefetched[None], self._layer)
        return done

    def _waited(self, why: LayerFigure, seconds: float) -> None:
        self._stall += seconds
        self.figures.add(why, self._layer, int(seconds * 1e6))

    def _load(self, pages: torch.Tensor, slots: torch.Tensor) -> None:
        if self.link is None:
            self.backing.fetch(pages, self.rows, slots)
            return
        with self.link.carrying(pages.numel() * self.page_bytes, demand=True):
            self.backing.fetch(pages, self.rows, slots)

    def _resolve(self, pages: torch.Tensor) -> Resolved:
        if int(self.state.evicted_count) + pages.numel() > self.state.slots:
            self.keep_evicted()
        try:
            return resolve(self.state, pages, self.policy)
        except PoolTooSmallError:
            self.commit_prefetches(wait=True)
            return resolve(self.state, pages, self.policy)

    def observe(self, pages: torch.Tensor, heat: torch.Tensor) -> None:
        """Fold this step's `heat` ([n] scores, or margins under margin-ema) of `pages` ([n] int64) into all averages.

        The kernels rank by (255 - ema)/8, so an average of margins is kept as the score that has its value.
        """
        average = self._average.mul_(DECAY)
        average[pages] += (1 - DECAY) * heat
        value = CEILING - torch.log2(average + EPSILON)
        self.state.ema.copy_(255 - 8 * value if self.by_margin else average)

    def end_step(self) -> None:
        """Off the critical path: refill the reserve from the worst values."""
        reclaim(self.state, low=self.low, high=self.high, policy=self.policy)
        self.figures.end_step()

    # Plans and prefetch.

    def apply_plan(
        self, pages: torch.Tensor, generations: torch.Tensor, values: torch.Tensor, *, epoch_tick: int, until_tick: int
    ) -> Counter[str]:
        """Write a plan's values; return rejected entries by reason. See kernels.apply_plan for what is rejected."""
        counts = apply_plan(
            self.state, pages, generations, values, epoch_tick=epoch_tick, until_tick=until_tick
        ).tolist()
        self.moved.entries_applied += counts[0]
        return self._count_rejected(PLAN_REASONS, counts)

    def prefetch(self, pages: torch.Tensor, generations: torch.Tensor) -> Counter[str]:
        """Start copying `pages` ([n] int32, best first) on the prefetch stream; return rejected entries by reason."""
        if not pages.numel():
            return Counter()
        stored = self.backing.may_have(pages.numpy())
        counts = torch.zeros(1 + len(PREFETCH_REASONS), dtype=torch.int64)
        counts[1 + PREFETCH_REASONS.index("not_stored")] = unknown = len(stored) - int(np.count_nonzero(stored))
        if unknown:
            known = torch.from_numpy(stored)
            pages, generations = pages[known], generations[known]
        self.keep_evicted()
        begun = begin_prefetch(self.state, pages, generations, keep=self.low, counts=counts)
        self._prefetcher.start(begun.pages.long(), begun.slots.long(), begun.generations)
        self.figures.begun(Cause.PLAN, begun.pages, begun.slots)
        self.moved.prefetch_pages += begun.pages.numel()
        return self._count_rejected(PREFETCH_REASONS, counts.tolist())

    def wanted_ahead(self, layer: int) -> torch.Tensor | None:
        """Where this step counts what is wanted for `layer` ([1] int32, 0), if it is kept beside the state."""
        return None

    def prefetch_ahead(self, pages: torch.Tensor, layer: int, wanted: torch.Tensor, most: torch.Tensor) -> None:
        """Start copying for a `layer` that begins soon in this step; see StepPrefetch.start."""
        self._ahead.start(pages[: int(most)], layer, wanted)

    def commit_prefetches(self, *, wait: bool = False) -> None:
        """At a safe point: make prefetches visible whose copies have arrived (`wait`: all of them)."""
        for pages, slots, generations in self._prefetcher.arrived(wait=wait):
            visible = commit_prefetch(self.state, pages, slots, generations)
            self._changed.loaded(pages[visible])
            self.moved.prefetch_wasted += int((~visible).sum())

    def overlaps(self, tokens: int) -> None:
        """Prefetches from now on run beside a forward pass of `tokens` tokens, which may decide how they are copied."""

    def warm_up_steering(self) -> None:
        """Compile what plans and advice need, before one comes for which a step would wait."""
        warm_up_values()
        warm_up_fetches()

    def follow(
        self,
        values: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
        prefetch: tuple[torch.Tensor, torch.Tensor],
        *,
        epoch_tick: int,
        until_tick: int,
        tell: Callable[[int, Counter[str]], None],
    ) -> None:
        """Apply a plan's values (pages, generations, values) and begin its prefetch (pages, generations).

        `tell` gets entries applied and rejected by reason, once they are known.
        """
        before = self.moved.entries_applied + self.moved.prefetch_pages
        rejected = self.apply_plan(*values, epoch_tick=epoch_tick, until_tick=until_tick) + self.prefetch(*prefetch)
        tell(self.moved.entries_applied + self.moved.prefetch_pages - before, rejected)

    def _count_rejected(self, reasons: tuple[str, ...], counts: list[int]) -> Counter[str]:
        rejected = Counter({r: n for r, n in zip(reasons, counts[1:], strict=True) if n})
        self.moved.entries_rejected.update(rejected)
        return rejected

    # What changed and what is there.

    def forget_changes(self) -> None:
        """Nobody wants to know what changed so far."""
        self._changed.forget()

    def drain_changes(self) -> tuple[Int32, Int32]:
        """Pages that gained and that lost their slot since the last call, both [n]; each page stands in one."""
        return self._changed.drain()

    def keep_evicted(self) -> None:
        """Before the state's log of evictions could overflow."""
        self._changed.keep_evicted()

    def peek(self, pages: torch.Tensor) -> torch.Tensor:
        """Content of `pages` ([n] int64, sealed or resident), [n, *row_shape]; residency stays as it is."""
        slots = self.slots_of(pages)
        out = self.rows[slots.clamp(min=0)]
        cold = torch.nonzero(slots < 0).flatten().cpu()
        self.backing.fetch(pages[cold], out, cold)
        return out

    def resident_pages(self) -> torch.Tensor:
        """All pages that have a slot, [n] int64, ascending."""
        return torch.nonzero(self.state.slot_of >= 0).flatten()

    def levels(self) -> tuple[int, int]:
        """Slots in the reserve, and slots that hold nothing and are not reserved, for a step's figures."""
        return reserve_level(self.state), int((self.state.state == FREE).sum())

    def link_time(self) -> float | None:
        """Seconds that the link has been taken so far; None where nobody can tell."""
        return self.link.busy_seconds if self.link else None

    def take_stall(self) -> float:
        """Seconds that swap-ins have made attention wait since the last call."""
        stall, self._stall = self._stall, 0.0
        return stall

    def check_mirrors(self) -> None:
        """Raise AssertionError if what the host remembers of the state differs from it."""

    def close(self) -> None:
        """Wait for copies in flight and give back what the tiers hold."""
        self._prefetcher.close()
        self.backing.close()

    def _ensure_evictable(self, count: int) -> None:
        pinned = int((self.state.state == PINNED).sum())
        if self.state.slots - pinned < count:
            raise CapacityError(
                f"{count} slots are needed for a new tail, but {pinned} of {self.state.slots} are pinned; "
                "raise the HBM budget or lower the number of sequences"
            )
