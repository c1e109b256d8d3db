"""The residency manager of a GPU: the kernels decide, the host launches and never waits for them inside a step.

What the host must know to launch right (pinned, held and filling slots, generations, ticks) it counts along; what only
the device knows (hits, misses, what a plan achieved) adds up in `counts` and is read when a step's tokens are.
Page ids that the host has (a tail's, a plan's) come as CPU tensors; those of a selection stay on the device.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import torch

from hotset.kernels.fold import fold
from hotset.kernels.held import give_back_slots, held_level, hold_slots
from hotset.kernels.prefetch import commit_prefetch
from hotset.kernels.reclaim import reclaim
from hotset.kernels.record import Accessed, Recorded, record
from hotset.kernels.release import release
from hotset.kernels.resolve import Resolved, resolve
from hotset.kernels.state import FREE, LIVE, MOST_TICKS, PINNED, ResidencyState
from hotset.kernels.swap_in import rows_of, swap_in
from hotset.protos.heat import DECAY
from hotset.runtime.change_log import Int32, Unlogged
from hotset.runtime.gpu.ahead import AheadFlights
from hotset.runtime.gpu.backing import DeviceBacking
from hotset.runtime.gpu.changes import Changes
from hotset.runtime.gpu.counts import COUNTS, DEMAND_PAGES, LINK_NS, STALL_NS, WASTED, add_counts
from hotset.runtime.gpu.device import Device, Stream
from hotset.runtime.gpu.plans import DevicePlans, Tell, rejected_of
from hotset.runtime.gpu.prefetch import DevicePrefetcher
from hotset.runtime.residency import ResidencyManager


class DeviceResidency(ResidencyManager):
    """See ResidencyManager; everything is ordered on the demand stream unless it says otherwise."""

    backing: DeviceBacking
    tiered = True

    def __init__(
        self,
        *,
        device: Device,
        slots: int,
        groups: int,
        layers: int,
        kv_heads: int,
        row_shape: tuple[int, ...],
        dtype: torch.dtype,
        backing: DeviceBacking,
        policy: str,
    ) -> None:
        super().__init__(slots=slots, groups=groups, layers=layers, kv_heads=kv_heads, row_shape=row_shape, dtype=dtype,
                         backing=backing, policy=policy, device=device.place)  # fmt: skip
        self.device = device
        self.counts = torch.zeros(COUNTS, dtype=torch.int64, device=device.place)
        self.clock = torch.zeros(layers, 2, dtype=torch.int64, device=device.place)
        self.pass_tokens = 1
        """Tokens of the forward pass that a prefetch begun now would overlap."""
        self._bytes = rows_of(self.rows)
        self.flights = DevicePrefetcher(device, backing, self.rows)
        self.ahead: AheadFlights | None = None  # of steps that look ahead; figures by layer are kept for them
        self._link_time = 0.0
        self._changes, self._changed = Changes(self.state), Unlogged(self.state)
        self._plans = DevicePlans(self)
        self._generation = [0] * groups
        self._tails: set[int] = set()
        self._held, self._wanted, self._tick, self._tick_open = 0, 0, 0, False
        self.ticks_launched = 0  # of a step that was launched before the last one's tokens were read
        self.heard = [0] * COUNTS
        """`counts` as of the last step's answer"""

    @property
    def eager(self) -> bool:
        """Whether every layer has to ask the host for its misses, since they may be on disk."""
        return self.backing.disk is not None

    def generation(self, group: int) -> int:
        """See ResidencyManager; the host counts along."""
        return self._generation[group]

    def tick(self) -> int:
        """See ResidencyManager; the host counts along."""
        return self._tick

    def _ids(self, ids: torch.Tensor) -> torch.Tensor:
        return ids if ids.device == self.device.place and ids.is_cuda else self.device.upload(ids)

    # Tails.

    def opens_next(self, tails: int) -> bool:
        """See ResidencyManager: as many as were sealed, if slots are held, for whose choice the host would wait."""
        return not self._held or self.hot_slots() - tails * self.lanes >= self._wanted

    def open_tails(self, groups: list[int]) -> None:
        """See ResidencyManager. More than were sealed take held slots, and the host waits for the choice of them."""
        if not groups:
            return
        needed = len(groups) * self.lanes
        self._ensure_evictable(needed)
        self.make_way(needed)
        if not self.opens_next(len(groups)):
            super().open_tails(groups)
            self._held = held_level(self.state)
        else:
            self._pin(self.pages_of(torch.tensor(groups)).flatten().to(torch.int32))
        self._tails.update(groups)

    def _pin(self, pages: torch.Tensor) -> None:
        # Nothing is in use between steps, so whatever the last layer used may go as well.
        self._open_tick()
        slots = resolve(self.state, self._ids(pages), self.policy).slots.long()
        self.state.state.index_fill_(0, slots, PINNED)
        # Resolving counts as a use of the step to come, which may not even select them once they are sealed.
        self.state.last_used[slots] = self.state.tick
        self.rows.index_fill_(0, slots, 0)

    def seal(self, groups: list[int]) -> None:
        """See ResidencyManager. The rows leave on the write-back stream."""
        super().seal(groups)
        self._tails.difference_update(groups)

    def park_tail(self, group: int) -> torch.Tensor:
        """See ResidencyManager."""
        rows = super().park_tail(group)
        self._tails.discard(group)
        return rows

    def warm(self, pages: torch.Tensor) -> int:
        """See ResidencyManager. The host waits: a prompt has just been prefilled."""
        pages = pages.cpu()
        pages = pages[(self.slots_of(pages) < 0).cpu() & self.backing.has(pages)]
        free = torch.nonzero(self.state.state == FREE).flatten()
        room = max(0, free.numel() - self.high)
        pages, slots = pages[:room], free[: min(room, pages.numel())]
        self.backing.fetch(pages, self.rows, slots)
        ids = self._ids(pages)
        self.state.page_of[slots] = ids.to(torch.int32)
        self.state.slot_of[ids] = slots.to(torch.int32)
        self.state.state[slots] = LIVE
        self.state.last_used[slots] = self.state.tick
        self.moved.warm_pages += pages.numel()
        return pages.numel()

    def free(self, groups: list[int]) -> None:
        """See ResidencyManager."""
        if not groups:
            return
        index = torch.tensor(groups)
        release(self.state, self._ids(index))
        pages = self.pages_of(index).flatten()
        self._average.index_fill_(0, self._ids(pages), 0.0)
        self.backing.free(pages)
        self._tails.difference_update(groups)
        for group in groups:
            self._generation[group] += 1

    # How many slots the hot set has.

    @property
    def _pinned_slots(self) -> int:
        return self.lanes * len(self._tails)

    def hot_slots(self) -> int:
        """See ResidencyManager; the host counts along."""
        return self.state.slots - self._pinned_slots - self._held

    def resize(self, wanted: int) -> None:
        """See ResidencyManager. The host waits where slots change hands, which advice alone brings about."""
        before, self._wanted = self.hot_slots(), wanted
        if before > wanted:
            hold_slots(self.state, before - wanted, self.policy)
            self._held = held_level(self.state)
        elif before < wanted and self._held:
            self._held -= give_back_slots(self.state, wanted - before)
        if before != wanted:
            self._set_watermarks(self.hot_slots())

    def overlaps(self, tokens: int) -> None:
        """See ResidencyManager."""
        self.pass_tokens = tokens

    def make_way(self, slots: int) -> None:
        """Before a layer or a tail needs `slots` at once: end all flights if those that they hold might be missing."""
        if self.hot_slots() - self.flights.filling < slots:
            self.commit_prefetches(wait=True)
        if self.ahead is not None:
            self.ahead.open_room(self.hot_slots() - self.flights.filling - slots)

    def _ensure_evictable(self, count: int) -> None:
        if self.state.slots - self._pinned_slots < count:
            super()._ensure_evictable(count)

    # A step.

    def begin_step(self) -> None:
        """See ResidencyManager. What was written back may be evicted and read again from here on."""
        self.backing.host.await_writes(Stream.DEMAND)
        if self._tick >= MOST_TICKS:
            self.state.rebase(self._tick)
            self._tick = 0
        self._open_tick()
        if self.ahead is not None:
            self.figures.begin_step()
        self.commit_prefetches()

    def end_step(self) -> None:
        """See ResidencyManager. The next step's uses begin to count, so that it need not wait for that."""
        low, high = self.watermarks
        reclaim(self.state, low=low, high=high, policy=self.policy)
        if self.ahead is not None:
            self.figures.end_step()
        self.state.step_tick.copy_(self.state.tick + 1)

    @property
    def watermarks(self) -> tuple[int, int]:
        """Of the reserve behind a step. Prefetches inside steps take their victims from a larger one."""
        wide = self.ahead is not None and self.ahead.fetches
        low, high = (self.high + self.high // 2, 2 * self.high) if wide else (self.low, self.high)
        return min(low, self.state.slots), min(high, self.state.slots)

    def has_stepped(self, layers: int) -> None:
        """What follows a step of so many layers has been launched: the host counts along."""
        self._tick += layers
        self._tick_open, self.ticks_launched = True, 0

    def _open_tick(self) -> None:
        """A new step's uses begin to count, unless they do since the last one ended."""
        if not self._tick_open:
            self.state.step_tick.copy_(self.state.tick + 1)
            self._tick_open = True

    def resolve(self, pages: torch.Tensor) -> Resolved:
        """See ResidencyManager; `pages` on the device. For steps that are not whole: counts by itself."""
        self.make_way(pages.numel())
        self.backing.host.await_writes(Stream.DEMAND)
        pages = self._ids(pages)
        done = self.resolve_layer(pages)
        self._tick += 1
        self._tick_open = False
        tally = [(pages >= 0).sum(), done.hit.sum(), done.prefetched.sum(), done.miss_count[0].long()]
        self.counts[: len(tally)] += torch.stack(tally)
        return done

    def resolve_layer(self, pages: torch.Tensor, layer: int = 0) -> Resolved:
        """Slots and data for the `pages` ([N] int32) of a layer. A captured graph may hold it, unless `eager`."""
        if self.ahead is not None:
            self.ahead.settle(layer)
        done = resolve(self.state, pages, self.policy, advance=True)
        swap_in(
            self.backing.host.bytes, self._bytes, done.miss_pages, done.miss_slots, done.miss_count,
            frame_of=self.backing.frame_at, clock=self.clock[layer],
        )  # fmt: skip
        if self.eager:
            self._read_disk(done)
        return done

    def _read_disk(self, done: Resolved) -> None:
        count = int(done.miss_count)
        pages, slots = done.miss_pages[:count].long().cpu(), done.miss_slots[:count].long()
        self.backing.note_reads(pages)
        below = torch.nonzero(self.backing.block_of[pages] >= 0).flatten()
        if below.numel():
            self.rows[slots[self._ids(below)]] = self.device.upload(self.backing.gather(pages[below]))

    def read_pages(self, pages: torch.Tensor, slots: torch.Tensor) -> None:
        """Copy `pages` from their frames into `slots` ([n] each, on the device)."""
        count = torch.full((1,), pages.numel(), dtype=torch.int32, device=pages.device)
        self.backing.host.await_writes(Stream.DEMAND)
        swap_in(
            self.backing.host.bytes, self._bytes, pages.to(torch.int32), slots.to(torch.int32), count,
            frame_of=self.backing.frame_at,
        )  # fmt: skip

    def count_layers(self, done: Sequence[Resolved]) -> None:
        """Behind a whole step: add up the misses and stalls of its layers."""
        missed, stalls = (
            torch.stack([r.miss_count for r in done]).flatten(),
            (self.clock[:, 1] - self.clock[:, 0]).clamp(min=0),
        )
        self.counts[DEMAND_PAGES] += missed.sum()
        self.counts[STALL_NS] += stalls.sum()
        self.counts[LINK_NS] += stalls.sum()
        self.clock.zero_()
        if self.ahead is not None:
            self.ahead.count(missed, stalls)
            self.figures.used(torch.stack([r.slots for r in done]), torch.stack([r.prefetched for r in done]))

    def record(self, step: Accessed, out: Recorded | None) -> None:
        """Behind a whole step: its heat and its accesses, which also go to `out`."""
        record(step, self._average, self.counts, by_margin=self.by_margin, out=out)

    def fold(self) -> None:
        """Behind a whole step that was recorded: all averages decay."""
        fold(self._average, self.state.ema, by_margin=self.by_margin)

    def observe(self, pages: torch.Tensor, heat: torch.Tensor) -> None:
        """See ResidencyManager."""
        self._average[self._ids(pages)] += (1 - DECAY) / DECAY * heat.to(self.device.place)
        self.fold()

    def levels(self) -> tuple[int, int]:
        """See ResidencyManager. Not known without waiting; what a step publishes has them from the device."""
        return 0, 0

    # Plans and prefetch.

    def apply_plan(
        self, pages: torch.Tensor, generations: torch.Tensor, values: torch.Tensor, *, epoch_tick: int, until_tick: int
    ) -> Counter[str]:
        """See ResidencyManager; waits for the counts, which `follow` does not."""
        return self._rejected(self._plans.enter((pages, generations, values), None, epoch_tick, until_tick))

    def prefetch(self, pages: torch.Tensor, generations: torch.Tensor) -> Counter[str]:
        """See ResidencyManager; waits for the counts, which `follow` does not."""
        return self._rejected(self._plans.enter(None, (pages, generations)))

    def follow(
        self,
        values: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
        prefetch: tuple[torch.Tensor, torch.Tensor],
        *,
        epoch_tick: int,
        until_tick: int,
        tell: Tell,
    ) -> None:
        """See ResidencyManager. `tell` is called at a later safe point, when the counts have arrived."""
        self._plans.expect(self._plans.enter(values, prefetch, epoch_tick, until_tick), tell)

    def answer_plans(self) -> None:
        """Tell what became of plans, as far as it is known."""
        self._plans.deliver()

    def warm_up_steering(self) -> None:
        """See ResidencyManager."""
        self._plans.warm_up()
        # As many slots as ours: what sorts them is loaded when it is first used, and depends on how many there are.
        like = ResidencyState.create(slots=self.state.slots, groups=1, layers=1, kv_heads=1, device=self.device.place)
        like.state.fill_(LIVE)
        give_back_slots(like, hold_slots(like, 1, self.policy))

    def _rejected(self, counts: torch.Tensor) -> Counter[str]:
        self.read_counts(self.counts.tolist())
        return rejected_of(counts.tolist())

    def wanted_ahead(self, layer: int) -> torch.Tensor | None:
        """See ResidencyManager."""
        assert self.ahead is not None, "these steps do not look ahead"
        return self.ahead.wanted[layer : layer + 1]

    def prefetch_ahead(self, pages: torch.Tensor, layer: int, wanted: torch.Tensor, most: torch.Tensor) -> None:
        """See ResidencyManager. A captured graph may hold it."""
        assert self.ahead is not None, "these steps do not look ahead"
        self.ahead.start(pages, layer, wanted, most)

    def commit_prefetches(self, *, wait: bool = False) -> None:
        """See ResidencyManager. `wait`: the demand stream waits for the copies; the host only for those it stages."""
        for flight in self.flights.arrived(wait=wait):
            commit_prefetch(
                self.state, flight.pages, flight.slots, flight.generations, wasted=self.counts[WASTED : WASTED + 1]
            )

    def read_counts(self, counts: list[int]) -> None:
        """Bring `moved` up to date with a copy of `counts`."""
        new = [now - then for now, then in zip(counts, self.heard, strict=True)]
        self.heard = counts
        add_counts(self.moved, new)
        self._stall += new[STALL_NS] * 1e-9
        self._link_time += new[LINK_NS] * 1e-9

    def link_time(self) -> float:
        """See ResidencyManager; by the clocks of the copies of misses and of those inside a step."""
        return self._link_time

    def drain_changes(self) -> tuple[Int32, Int32]:
        """See ResidencyManager. The host waits; what changed is found by looking at the slots, not kept (ring.py)."""
        found = self._changes.look(self.state.slots)
        loaded, evicted = found.counts[:2].tolist()
        return found.loaded[:loaded].cpu().numpy(), found.evicted[:evicted].cpu().numpy()

    def check_mirrors(self) -> None:
        """See ResidencyManager."""
        self.read_counts(self.counts.tolist())
        assert self._generation == self.state.generation.tolist(), "the host's generations are off"
        assert self._held == held_level(self.state), "the host's count of held slots is off"
        assert self._pinned_slots == int((self.state.state == PINNED).sum()), "the host's count of tails is off"
        assert self._tick + self.ticks_launched == int(self.state.tick), "the host's tick is off"

    def close(self) -> None:
        """See ResidencyManager."""
        self.flights.close()
        self.device.synchronize()
        self.read_counts(self.counts.tolist())
        self._plans.deliver()
        super().close()
