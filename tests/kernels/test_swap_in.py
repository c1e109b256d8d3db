"""swap_in: every byte of the named rows, and no other byte."""

import pytest
import torch

from hotset.kernels.swap_in import rows_of, swap_in


def _host(rows: torch.Tensor, device: str) -> torch.Tensor:
    return rows.pin_memory() if device == "cuda" else rows


# 656 and 1,152 bytes are rows of latent attention; 4,100 is no multiple of 16; 100 rows end inside a tile.
@pytest.mark.parametrize("row", [656, 1152, 4100, 8192])
@pytest.mark.parametrize("seal", [False, True])
def test_copies_the_named_rows_only(row: int, seal: bool, device: str) -> None:
    torch.manual_seed(row)
    src = torch.randint(0, 256, (163, row), dtype=torch.uint8)
    index, target = torch.randperm(163)[:100].int(), torch.randperm(200)[:100].int()
    index[7], target[9] = -1, -1
    dst = torch.full((200, row), 0xA5, dtype=torch.uint8)
    expected = dst.clone()
    for i in set(range(93)) - {7, 9}:
        expected[target[i]] = src[index[i]]
    source = src.to(device) if seal else _host(src, device)
    out = _host(dst, device) if seal else dst.to(device)
    count = torch.tensor([93], dtype=torch.int32, device=device)
    swap_in(source, out, index.to(device), target.to(device), count)
    if device == "cuda":
        torch.cuda.synchronize()
    assert torch.equal(out.cpu(), expected)


def test_frames_are_looked_up(device: str) -> None:
    src = torch.randint(0, 256, (63, 656), dtype=torch.uint8)
    frame_of = torch.randperm(100).int() - 37
    pages = torch.randperm(100)[:63].int()
    dst = torch.zeros(63, 656, dtype=torch.uint8, device=device)
    slots = torch.randperm(63).int()
    count = torch.tensor([1000], dtype=torch.int32, device=device)
    swap_in(_host(src, device), dst, pages.to(device), slots.to(device), count, frame_of=frame_of.to(device))
    for page, slot in zip(pages.tolist(), slots.tolist(), strict=True):
        frame = int(frame_of[page])
        assert torch.equal(dst[slot].cpu(), src[frame] if frame >= 0 else torch.zeros(656, dtype=torch.uint8))


def test_rows_of_is_a_view() -> None:
    pool = torch.zeros(3, 2, 4, 8, dtype=torch.bfloat16)
    rows = rows_of(pool)
    assert rows.shape == (3, 128)
    rows[1] = 255
    assert pool[1].isnan().all()
    assert not pool[0].any()


def test_wrong_arguments_are_named() -> None:
    rows = torch.zeros(4, 64, dtype=torch.uint8)
    index, count = torch.zeros(2, dtype=torch.int32), torch.zeros(1, dtype=torch.int32)
    with pytest.raises(ValueError, match="rows differ: 64 bytes against 32"):
        swap_in(rows, rows[:, :32].contiguous(), index, index, count)
    with pytest.raises(ValueError, match="rows of 6 bytes are not a multiple of 4"):
        swap_in(rows[:, :6].contiguous(), rows[:, :6].contiguous(), index, index, count)
    with pytest.raises(ValueError, match=r"sms must lie in 1\.\.132"):
        swap_in(rows, rows, index, index, count, sms=0)
