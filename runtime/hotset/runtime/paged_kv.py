"""Sequences over the residency manager: page tables, tails, page bounds, forks."""

from __future__ import annotations

from collections.abc import Callable

import torch

from hotset.kernels.page_bounds import page_bounds
from hotset.protos.errors import CapacityError
from hotset.protos.messages import Geometry
from hotset.runtime.backends import device_for, make_manager
from hotset.runtime.config import RuntimeConfig
from hotset.runtime.gpu.device import Device
from hotset.runtime.gpu.pinned import Progress
from hotset.runtime.groups import GroupTable, Sequence
from hotset.runtime.integrity import check_integrity
from hotset.runtime.shape import ModelShape

__all__ = ["ModelShape", "PagedKV"]


class PagedKV:
    """The KV cache of all sequences of one model: who holds which group, and the data behind it.

    A sequence of `length` tokens holds ceil(length / page_size) groups; a partial last one is its tail.
    `bounds` [P, 2, head_dim] are the elementwise min and max of each page's keys, always on the device.
    """

    def __init__(
        self,
        shape: ModelShape,
        config: RuntimeConfig,
        device: Device | torch.device | str = "cpu",
        *,
        progress: Progress = lambda done, total: None,
    ) -> None:
        """`device` picks the backend: the CPU's, a CUDA device's, or that of a Device; `progress` as for PinnedTier."""
        self.shape, self.config = shape, config
        self.device = device if isinstance(device, Device) else device_for(torch.device(device))
        place = torch.device("cpu") if self.device is None else self.device.place
        self.lanes = shape.layers * shape.kv_heads
        self.page_size = config.page_size
        self.groups = GroupTable(config.groups)
        self.sequences: dict[int, Sequence] = {}
        self.manager = make_manager(shape, config, self.device, progress)
        self.bounds = torch.zeros(config.groups * self.lanes, 2, shape.head_dim, dtype=shape.dtype, device=place)
        self.new_groups: list[tuple[int, int, int]] = []
        self.on_freed: Callable[[list[int]], None] = lambda groups: None
        """told of groups that nobody holds any more"""
        self.sharers = config.running
        """Sequences that are to run at once, by whoever schedules them; each may warm its share of the slots."""
        self._next_id = 0

    @property
    def geometry(self) -> Geometry:
        """The session's fixed sizes, as the wire names them."""
        return Geometry(
            layers=self.shape.layers,
            kv_heads=self.shape.kv_heads,
            page_size=self.page_size,
            selected=self.config.selected,
            candidates=2 * self.config.selected,
            page_bytes=self.manager.page_bytes,
            slots=self.manager.state.slots,
            groups=len(self.groups.references),
        )

    def open(self, prompt_tokens: int, *, shared: int = 0) -> Sequence:
        """A new, empty sequence that will take its first `shared` groups from another.

        Raises CapacityError if as many sequences are open as can be, or the page table has no room for the prompt.
        """
        if len(self.sequences) >= self.config.max_sequences:
            raise CapacityError(f"{len(self.sequences)} sequences are open, the limit; raise --max-sequences")
        needed = self.groups_for(prompt_tokens) - shared
        if needed > self.groups.free_groups:
            raise CapacityError(
                f"a prompt of {prompt_tokens} tokens needs {needed} page groups, "
                f"{self.groups.free_groups} are free; raise --max-tokens or shorten the prompt"
            )
        sequence = Sequence(self._next_id, prompt_tokens)
        self._next_id += 1
        self.sequences[sequence.id] = sequence
        return sequence

    def extend(self, sequence: Sequence, tokens: int) -> None:
        """Provide groups for `tokens` more tokens of a prompt; a partial last page becomes the pinned tail.

        The length so far must fill whole pages. Groups that the tokens fill are expected through `store`.
        """
        assert sequence.length % self.page_size == 0, "a prompt grows by whole pages"
        sequence.length += tokens
        while len(sequence.groups) < self.groups_for(sequence.length):
            self._add_group(sequence)
        if sequence.length % self.page_size:
            self.manager.open_tails(sequence.groups[-1:])

    def begin_token(self, sequence: Sequence) -> None:
        """Make room for one more token: the first token of a page opens a tail. The token counts at once."""
        if sequence.length % self.page_size == 0:
            opened, sequence.next_group = sequence.next_group, None
            self._add_group(sequence, opened)
            if opened is None:
                try:
                    self.manager.open_tails(sequence.groups[-1:])
                except CapacityError:
                    self._drop(sequence, [sequence.groups.pop()])
                    raise
        sequence.length += 1

    def has_place(self, sequence: Sequence) -> bool:
        """Whether `begin_token` will only count."""
        return sequence.length % self.page_size > 0 or sequence.next_group is not None

    def end_tokens(self, sequences: list[Sequence]) -> None:
        """The K and V of a token of each are written: seal the tails that are full now."""
        for sequence in sequences:
            sequence.step += 1
        if full := [s.groups[-1] for s in sequences if s.length % self.page_size == 0]:
            self.manager.seal(full)

    def open_next(self, sequences: list[Sequence]) -> None:
        """Open the tails whose first token comes next, where a device can do it while it computes; else nothing.

        Groups or slots that are not to be had now may be had by `begin_token`.
        """
        wanting = [s for s in sequences if s.length % self.page_size == 0][: self.groups.free_groups]
        if not self.manager.opens_next(len(wanting)):
            return
        groups = [self.groups.allocate() for _ in wanting]
        try:
            self.manager.open_tails(groups)
        except CapacityError:
            self.groups.release(groups)
            return
        for sequence, group in zip(wanting, groups, strict=True):
            sequence.next_group = group

    def fork(self, parent: Sequence) -> Sequence:
        """A sequence that shares all sealed groups of `parent` and copies its tail; parked if `parent` is."""
        child = self.open(0)
        child.prompt_tokens, child.parent = parent.length, parent.id
        self.share(child, parent, parent.length // self.page_size)
        child.length = parent.length
        if parent.length % self.page_size:
            try:
                self._add_group(child)
                self._copy_tail(parent, child)
            except CapacityError:
                child.parked = None
                self.close(child)
                raise
        elif parent.parked is not None:
            child.parked = parent.parked
        return child

    def share(self, sequence: Sequence, donor: Sequence, pages: int) -> None:
        """Begin an empty `sequence` with the first `pages` sealed logical pages of `donor`: the same groups."""
        assert not sequence.groups, "shared pages come first"
        assert pages <= donor.length // self.page_size, "only sealed pages are shared"
        self.groups.share(donor.groups[:pages])
        sequence.groups = donor.groups[:pages]
        sequence.length = pages * self.page_size
        sequence.clock = donor.clock + donor.step

    def pause(self, sequence: Sequence) -> None:
        """Give up the slots of the tail; its rows wait on the host. The other pages stay, and grow cold."""
        assert sequence.parked is None, "it is paused already"
        if sequence.length % self.page_size:
            sequence.parked = self.manager.park_tail(sequence.groups[-1])
        else:
            self._close_next(sequence)
            sequence.parked = torch.empty(0)

    def resume(self, sequence: Sequence) -> None:
        """Pin the tail again. Raises CapacityError if the pool cannot give the slots; it stays paused then."""
        assert sequence.parked is not None, "it is not paused"
        if sequence.length % self.page_size:
            self.manager.unpark_tail(sequence.groups[-1], sequence.parked)
        sequence.parked = None

    def close(self, sequence: Sequence) -> None:
        """End a sequence; groups that nobody else holds are freed in every tier."""
        del self.sequences[sequence.id]
        self._drop(sequence, sequence.held)
        sequence.groups, sequence.next_group = [], None

    def groups_for(self, tokens: int) -> int:
        """Groups that `tokens` tokens need."""
        return -(-tokens // self.page_size)

    def page_table(self, sequences: list[Sequence]) -> torch.Tensor:
        """Groups of `sequences` in logical order, [len(sequences), longest] int32, padded with -1."""
        longest = max(len(s.groups) for s in sequences)
        return torch.tensor([s.groups + [-1] * (longest - len(s.groups)) for s in sequences], dtype=torch.int32)

    def layer_pages(self, groups: torch.Tensor, layer: int) -> torch.Tensor:
        """Physical pages of `groups` (any shape, int64) in `layer`, one more dimension [kv_heads] at the end."""
        heads = torch.arange(self.shape.kv_heads, device=groups.device)
        return groups[..., None] * self.lanes + layer * self.shape.kv_heads + heads

    def tokens(self, groups: list[int], layer: int) -> torch.Tensor:
        """K and V of sealed `groups` in `layer`, wherever they sit: [2, 1, kv_heads, tokens, head_dim]."""
        heads, count = self.shape.kv_heads, len(groups)
        pages = self.layer_pages(torch.tensor(groups), layer).transpose(0, 1).flatten()
        rows = self.manager.peek(pages).view(heads, count, 2, self.page_size, -1)
        return rows.permute(2, 0, 1, 3, 4).reshape(2, 1, heads, count * self.page_size, -1)

    def store(self, pages: torch.Tensor, rows: torch.Tensor) -> None:
        """Write full pages ([n] int64) of a prompt through and keep their bounds; `rows` [n, 2, page_size, D]."""
        self.manager.store(pages, rows)
        rows = rows.to(self.bounds.device).contiguous()
        page_bounds(rows, pages.to(self.bounds.device, torch.int32), self.bounds)

    def forget_changes(self) -> None:
        """Drop the log of new groups, loads and evictions: nobody listens, and whoever comes asks for a snapshot."""
        self.new_groups.clear()
        self.manager.forget_changes()

    def generation(self, group: int) -> int:
        """The current generation of a group."""
        return self.manager.generation(group)

    def check_integrity(self) -> None:
        """Raise AssertionError if any invariant of DESIGN.md is broken. For use between steps."""
        check_integrity(self.manager, self.groups, list(self.sequences.values()), self.page_size)

    def _close_next(self, sequence: Sequence) -> None:
        group, sequence.next_group = sequence.next_group, None
        self._drop(sequence, [] if group is None else [group])

    def _add_group(self, sequence: Sequence, group: int | None = None) -> None:
        """Add `group`, which the sequence holds already, or a new one."""
        group = self.groups.allocate() if group is None else group
        sequence.groups.append(group)
        self.new_groups.append((sequence.id, group, self.generation(group)))

    def _copy_tail(self, parent: Sequence, child: Sequence) -> None:
        if parent.parked is None:
            self.manager.copy_tail(parent.groups[-1], child.groups[-1])
        else:
            child.parked = parent.parked.clone()
        old, new = self.manager.pages_of(torch.tensor([parent.groups[-1], child.groups[-1]]))
        self.bounds[new] = self.bounds[old]

    def _drop(self, sequence: Sequence, groups: list[int]) -> None:
        freed = self.groups.release(groups)
        self.manager.free(freed)
        self.on_freed(freed)
        self.new_groups = [n for n in self.new_groups if n[0] != sequence.id or n[1] in sequence.groups]
