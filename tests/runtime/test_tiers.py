"""One conformance suite for every tier, then what is special about each."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from backend_kit import backend_device
from hypothesis import given, settings
from hypothesis import strategies as st

from hotset.kernels.dispatch import interpreting
from hotset.protos.errors import CapacityError, ConfigError
from hotset.runtime.backing import BackingStore
from hotset.runtime.gpu import Device, InlineDevice, PinError
from hotset.runtime.gpu.pinned import PinnedTier
from hotset.runtime.tiers import DiskTier, HostTier, Tier, TierFullError, TierIOError

SHAPE = (2, 3, 5)  # odd on purpose: rows are not a multiple of any block size


@pytest.fixture(params=["host", "disk", *(f"pinned {name}" for name in ("inline", "interpreted")),
                        pytest.param("pinned cuda", marks=pytest.mark.gpu)])  # fmt: skip
def tier(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Tier]:
    kind, _, backend = request.param.partition(" ")
    made: Tier
    with interpreting() if backend == "interpreted" else nullcontext():
        if kind == "pinned":
            device = backend_device(backend)
            assert isinstance(device, Device)
            made = PinnedTier(7, SHAPE, torch.float32, device)
        else:
            made = HostTier(7, SHAPE, torch.float32) if kind == "host" else DiskTier(7, SHAPE, torch.bfloat16, tmp_path)
        yield made
        made.close()


def place(tier: Tier) -> torch.device:
    """Where the rows are that this tier serves."""
    return tier.device.place if isinstance(tier, PinnedTier) else torch.device("cpu")


def test_rows_come_back_bit_for_bit(tier: Tier) -> None:
    rows = torch.randn(5, *SHAPE).to(tier.dtype)
    ids = tier.allocate(5)
    tier.write_from(ids, rows.to(place(tier)))
    pool = torch.full((9, *SHAPE), torch.nan, dtype=tier.dtype, device=place(tier))
    where = torch.tensor([8, 1, 3, 0, 2])
    tier.read_into(ids, pool, where)
    out = pool.cpu()
    assert torch.equal(out[where], rows)
    assert bool(out[[4, 5, 6, 7]].isnan().all())
    assert (tier.stats.rows_written, tier.stats.rows_read) == (5, 5)
    assert tier.stats.bytes_read == 5 * tier.row_bytes


def test_rows_rewritten_after_free_hold_the_new_content(tier: Tier) -> None:
    ids = tier.allocate(7)
    tier.write_from(ids, torch.zeros(7, *SHAPE, dtype=tier.dtype))
    tier.free(ids[2:4])
    again = tier.allocate(2)
    assert sorted(again.tolist()) == sorted(ids[2:4].tolist())
    tier.write_from(again, torch.ones(2, *SHAPE, dtype=tier.dtype))
    out = torch.empty(2, *SHAPE, dtype=tier.dtype, device=place(tier))
    tier.read_into(again, out, torch.arange(2))
    assert bool((out == 1).all())
    if isinstance(tier, HostTier):
        assert bool((tier.rows(again) == 1).all())
    tier.check_integrity()


def test_a_full_tier_takes_nothing(tier: Tier) -> None:
    tier.allocate(5)
    with pytest.raises(TierFullError, match="3 rows wanted, 2 of 7 free"):
        tier.allocate(3)
    assert tier.free_rows == 2
    tier.check_integrity()


def test_freeing_twice_is_refused(tier: Tier) -> None:
    ids = tier.allocate(1)
    tier.free(ids)
    with pytest.raises(ValueError, match="not allocated"):
        tier.free(ids)


class Scarce(InlineDevice):
    """A machine that gives `left` bytes of page-locked memory."""

    left = 3 * 4096

    def pin(self, memory: torch.Tensor) -> None:
        if memory.nbytes > self.left:
            raise PinError("out of memory (2)")
        self.left -= memory.nbytes

    def unpin(self, memory: torch.Tensor) -> None:
        self.left += memory.nbytes


def test_the_pool_is_pinned_in_pieces_and_tells_how_far_it_is() -> None:
    told: list[tuple[int, int]] = []
    device = Scarce()
    tier = PinnedTier(6, (512,), torch.float32, device, progress=lambda *far: told.append(far), chunk_bytes=5000)
    assert told == [(4096, 12288), (8192, 12288), (12288, 12288)]
    assert device.left == 0
    tier.close()
    assert device.left == 3 * 4096


def test_memory_that_cannot_be_had_is_told_with_what_to_set() -> None:
    device = Scarce()
    with pytest.raises(CapacityError) as caught:
        PinnedTier(1 << 14, (512,), torch.float32, device, chunk_bytes=4096)
    words = "take 0.03 GiB of pinned memory and only 0.00 GiB could be had (out of memory (2)); set --host-pages 6 "
    assert words in str(caught.value)
    assert device.left == 3 * 4096, "what was pinned before the error is given back"


def test_disk_folder_that_is_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="--disk-dir"):
        DiskTier(1, SHAPE, torch.float32, tmp_path / "file")


def test_disk_leaves_nothing_behind(tmp_path: Path) -> None:
    tier = DiskTier(1, SHAPE, torch.float32, tmp_path)
    tier.write_from(tier.allocate(1), torch.ones(1, *SHAPE))
    assert os.listdir(tmp_path) == []
    tier.close()


def test_a_block_never_written_is_an_error(tmp_path: Path) -> None:
    tier = DiskTier(2, SHAPE, torch.float32, tmp_path)
    with pytest.raises(TierIOError, match="short"):
        tier.read_into(tier.allocate(1), torch.empty(1, *SHAPE), torch.tensor([0]))
    tier.close()


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["store", "fetch", "free"]), st.integers(0, 29)), max_size=60))
def test_backing_store_keeps_every_page(tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, int]]) -> None:
    """Whatever is demoted and read back, a stored page reads as it was written."""
    disk = DiskTier(30, (4,), torch.float32, tmp_path_factory.mktemp("disk"))
    store = BackingStore(30, HostTier(3, (4,), torch.float32), disk)
    held: dict[int, float] = {}
    for number, (action, page) in enumerate(steps):
        index = torch.tensor([page])
        if action == "store" and page not in held:
            store.store(index, torch.full((1, 4), float(number)))
            held[page] = float(number)
        elif action == "free":
            store.free(index)
            held.pop(page, None)
        out = torch.full((len(held), 4), torch.nan)
        pages = torch.tensor(list(held), dtype=torch.int64)
        store.fetch(pages, out, torch.arange(len(held)))
        assert out[:, 0].tolist() == list(held.values())
        store.check_integrity()
    store.close()


def test_backing_store_without_disk_refuses_when_full() -> None:
    store = BackingStore(4, HostTier(2, (4,), torch.float32))
    store.store(torch.tensor([0, 1]), torch.zeros(2, 4))
    with pytest.raises(TierFullError, match="host tier"):
        store.store(torch.tensor([2]), torch.zeros(1, 4))
    store.check_integrity()
