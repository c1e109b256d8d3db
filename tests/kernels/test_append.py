"""append: tokens land in their tails, bounds widen, padded rows and tails without a slot write nothing."""

from __future__ import annotations

import pytest
import torch

from hotset.kernels.append import append, reference

BATCH, HEADS, LAYERS, PAGE, GROUPS, SLOTS = 5, 3, 2, 4, 7, 40


@pytest.mark.parametrize(("dim", "dtype"), [(63, torch.float32), (100, torch.float16), (128, torch.bfloat16)])
def test_as_the_reference(device: str, dim: int, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    lanes = LAYERS * HEADS
    slots = torch.randn(SLOTS, 2, PAGE, dim).to(dtype)
    bounds = torch.randn(GROUPS * lanes, 2, dim).to(dtype)
    slot_of = torch.full((GROUPS * lanes,), -1, dtype=torch.int32)
    slot_of[: 6 * lanes] = torch.randperm(SLOTS, dtype=torch.int32)[: 6 * lanes]
    # A padded row, and a tail whose pages have no slot.
    tails = torch.tensor([3, -1, 6, 0, 5], dtype=torch.int32)
    offsets = torch.tensor([0, 2, 1, 3, 2], dtype=torch.int32)
    keys, values = (torch.randn(BATCH, HEADS, dim).to(dtype) for _ in range(2))
    ours = [tensor.to(device) for tensor in (keys, values, slots, bounds, slot_of, tails, offsets)]
    before = slots.clone(), bounds.clone()
    reference.append(keys, values, slots, bounds, slot_of, tails, offsets, 1, lanes)
    append(*ours, layer=1, lanes=lanes)
    assert torch.equal(ours[2].cpu(), slots)
    assert torch.equal(ours[3].cpu(), bounds)
    assert int((slots != before[0]).flatten(1).any(1).sum()) == 3 * HEADS
    page = 3 * lanes + HEADS
    assert torch.equal(slots[slot_of[page].long(), :, 0], torch.stack((keys[0, 0], values[0, 0])))
    assert torch.equal(bounds[page], keys[0, 0].expand(2, -1))
    assert torch.equal(bounds[lanes + HEADS], before[1][lanes + HEADS])


def test_wrong_arguments_are_named() -> None:
    rows, bounds, one = torch.zeros(4, 2, 4, 8), torch.zeros(6, 2, 8), torch.zeros(1, dtype=torch.int32)
    key, slot_of = torch.zeros(1, 3, 8), torch.zeros(6, dtype=torch.int32)
    with pytest.raises(ValueError, match="layer 2 lies outside 6 lanes"):
        append(key, key, rows, bounds, slot_of, one, one, layer=2, lanes=6)
    with pytest.raises(ValueError, match="bounds must have shape"):
        append(key, key, rows, bounds[:5], slot_of, one, one, layer=0, lanes=6)
