"""attend against float64; its bits must depend on nothing but the selection."""

from collections.abc import Callable

import pytest
import torch

from hotset.kernels.attend import attend, attend_finish, attend_start, reference

Close = Callable[[str, torch.dtype, torch.Tensor, torch.Tensor], None]
Case = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]
Shape = tuple[int, int, int, int | None, int, int]

# (query heads, KV heads, head_dim, value_dim, page_size, pages): 7 heads a KV head; 100 pages of one token; a latent
# row; 30 pages of 7 tokens with 80 dimensions, nothing of it a power of two.
SHAPES = [
    (7, 1, 64, None, 16, 9),
    (4, 4, 128, None, 1, 100),
    (3, 1, 576, 512, 4, 3),
    (3, 1, 80, None, 7, 30),
]
DTYPES = [torch.float32, torch.float16, torch.bfloat16]


def _case(shape: Shape, dtype: torch.dtype) -> Case:
    """Slots hold NaN wherever nothing may be read: unselected slots, and the tail page behind its last token."""
    heads, kv_heads, dim, value_dim, page, k = shape
    torch.manual_seed(dim)
    count = 2 * kv_heads * k
    rows = torch.randn(count + 63, 2 if value_dim is None else 1, page, dim).to(dtype)
    ids = torch.randperm(count + 63)[:count].view(2, kv_heads, k).int()
    valid = torch.full_like(ids, page)
    valid[..., -1] = (page + 1) // 2
    ids[1, :, 2:] = -1
    slots = torch.full_like(rows, torch.nan)
    for slot, count in zip(ids.flatten().tolist(), valid.flatten().tolist(), strict=True):
        if slot >= 0:
            slots[slot, :, :count] = rows[slot, :, :count]
    return torch.randn(2, heads, dim).to(dtype), slots, ids, valid


def _exact(case: Case, value_dim: int | None, scale: float) -> torch.Tensor:
    query, slots, ids, valid = case
    out = []
    for b in range(query.shape[0]):
        for h in range(query.shape[1]):
            lane = h // (query.shape[1] // ids.shape[1])
            pairs = [(s, c) for s, c in zip(ids[b, lane].tolist(), valid[b, lane].tolist(), strict=True) if s >= 0]
            keys = torch.cat([slots[s, 0, :c] for s, c in pairs]).double()
            values = torch.cat([slots[s, -1, :c] for s, c in pairs]).double()[:, :value_dim]
            out.append(torch.softmax(keys @ query[b, h].double() * scale, 0) @ values)
    return torch.stack(out).view(*query.shape[:2], -1)


def _skip_interpreted_bf16(dtype: torch.dtype, device: str) -> None:
    if dtype == torch.bfloat16 and device == "cpu":
        pytest.skip("Triton's interpreter multiplies bfloat16 matrices as integers")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_kernel_and_reference_agree_with_float64(shape: Shape, dtype: torch.dtype, device: str, close: Close) -> None:
    case, value_dim, scale = _case(shape, dtype), shape[3], shape[2] ** -0.5
    exact = _exact(case, value_dim, scale)
    close("attend", dtype, reference.attend(*case, scale, value_dim or shape[2]), exact)
    _skip_interpreted_bf16(dtype, device)
    close("attend", dtype, attend(*(t.to(device) for t in case), scale=scale, value_dim=value_dim), exact)


@pytest.mark.parametrize("shape", SHAPES)
def test_bits_do_not_depend_on_where_pages_sit(shape: Shape, device: str) -> None:
    query, slots, ids, valid = _case(shape, torch.float32)
    place = torch.randperm(slots.shape[0])
    moved = torch.empty_like(slots)
    moved[place] = slots
    moved_ids = torch.where(ids >= 0, place[ids.clamp(min=0).long()], -1).int()
    cases = ((query, slots, ids, valid), (query, moved, moved_ids, valid))
    here, there = (attend(*(t.to(device) for t in case), scale=0.1, value_dim=shape[3]) for case in cases)
    assert torch.equal(here, there)


@pytest.mark.parametrize("shape", SHAPES[:2])
def test_bits_do_not_depend_on_batch_neighbours(shape: Shape, device: str) -> None:
    query, slots, ids, valid = (t.to(device) for t in _case(shape, torch.float32))
    together = attend(query, slots, ids, valid, scale=0.1, value_dim=shape[3])
    alone = attend(query[1:], slots, ids[1:], valid[1:], scale=0.1, value_dim=shape[3])
    assert torch.equal(together[1:], alone)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [SHAPES[0], SHAPES[3]])
def test_hits_first_then_misses(shape: Shape, dtype: torch.dtype, device: str, close: Close) -> None:
    _skip_interpreted_bf16(dtype, device)
    case, value_dim, scale = _case(shape, dtype), shape[3], shape[2] ** -0.5
    query, slots, ids, valid = (t.to(device) for t in case)
    hit = torch.arange(ids.shape[2], device=device) % 3 != 0
    late = slots.clone()
    late[ids[..., ~hit][ids[..., ~hit] >= 0].long()] = torch.nan
    first = attend_start(query, late, ids, valid * hit, scale=scale, value_dim=value_dim)
    second = attend_start(query, slots, ids, valid * ~hit, scale=scale, value_dim=value_dim)
    close("attend merged", dtype, attend_finish([first, second], dtype), _exact(case, value_dim, scale))


def test_nothing_to_read_gives_zeros(device: str) -> None:
    query, slots, ids, valid = (t.to(device) for t in _case(SHAPES[0], torch.float32))
    assert not attend(query, slots, torch.full_like(ids, -1), valid, scale=0.1).any()
    assert not attend(query, slots, ids, torch.zeros_like(valid), scale=0.1).any()


def test_wrong_arguments_are_named() -> None:
    query, slots, ids, valid = _case(SHAPES[0], torch.float32)
    with pytest.raises(ValueError, match=r"slots must be torch\.float32, not torch\.float16"):
        attend(query, slots.half(), ids, valid, scale=0.1)
    with pytest.raises(ValueError, match="value_dim is for latent rows"):
        attend(query, slots, ids, valid, scale=0.1, value_dim=32)
    with pytest.raises(ValueError, match="needs at least one partial"):
        attend_finish([], torch.float32)
