"""page_scores against float64 and the definition of the bound, and its independence of batch neighbours."""

from collections.abc import Callable

import pytest
import torch

from hotset.kernels.page_scores import page_scores, reference

Close = Callable[[str, torch.dtype, torch.Tensor, torch.Tensor], None]
Case = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]

LAYER, KV_HEADS, LANES = 1, 2, 6


def _case(width: int, counts: list[int], heads: int, dim: int, dtype: torch.dtype) -> Case:
    torch.manual_seed(width)
    groups = torch.full((len(counts), width), -1, dtype=torch.int32)
    for row, count in zip(groups, counts, strict=True):
        row[:count] = torch.randperm(2 * width)[:count]
    bounds = torch.randn(2 * width * LANES, 2, dim).sort(1).values.to(dtype)
    query = torch.randn(len(counts), heads, dim).to(dtype)
    return query, bounds, groups, torch.tensor(counts, dtype=torch.int32)


def _scores(case: Case, device: str) -> torch.Tensor:
    return page_scores(*(t.to(device) for t in case), layer=LAYER, kv_heads=KV_HEADS, lanes=LANES, scale=0.125)


def _exact(case: Case) -> torch.Tensor:
    """The definition, in float64."""
    query, bounds, groups, pages = case
    batch, heads = query.shape[:2]
    mass = torch.zeros(batch, KV_HEADS, groups.shape[1], dtype=torch.float64)
    for b in range(batch):
        for h in range(heads if pages[b] else 0):
            head = h // (heads // KV_HEADS)
            low, high = bounds[groups[b, : pages[b]].long() * LANES + LAYER * KV_HEADS + head].double().unbind(1)
            q = query[b, h].double()
            mass[b, head, : pages[b]] += torch.softmax(torch.maximum(q * low, q * high).sum(-1) * 0.125, 0)
    return mass


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
# 14 heads are 7 a KV head; 100 pages leave a part of the last block of 32; a sequence of none is a padded row.
@pytest.mark.parametrize(("width", "heads", "dim"), [(100, 14, 64), (63, 2, 100)])
def test_kernel_and_reference_agree_with_float64(
    width: int, heads: int, dim: int, dtype: torch.dtype, device: str, close: Close
) -> None:
    case = _case(width, [width, 0, width // 3], heads, dim, dtype)
    exact = _exact(case)
    close("page_scores", dtype, _scores(case, device), exact)
    close("page_scores", dtype, reference.page_scores(*case, LAYER, KV_HEADS, LANES, 0.125), exact)


def test_mass_adds_up_to_the_query_heads(device: str) -> None:
    mass = _scores(_case(63, [63, 37], 14, 64, torch.float32), device)
    torch.testing.assert_close(mass.sum(-1).cpu(), torch.full((2, KV_HEADS), 7.0))
    assert not mass[1, :, 37:].any()


def test_a_longer_neighbour_changes_no_bit(device: str) -> None:
    query, bounds, groups, pages = _case(300, [63, 300], 2, 64, torch.float32)
    together = _scores((query, bounds, groups, pages), device)
    alone = _scores((query[:1], bounds, groups[:1, :63].contiguous(), pages[:1]), device)
    assert torch.equal(together[:1, :, :63], alone)


def test_wrong_arguments_are_named() -> None:
    query, bounds, groups, pages = _case(63, [63], 14, 64, torch.float32)
    with pytest.raises(ValueError, match="14 query heads do not divide among 4 KV heads"):
        page_scores(query, bounds, groups, pages, layer=0, kv_heads=4, lanes=8, scale=1.0)
    with pytest.raises(ValueError, match="layer 3 lies outside 6 lanes"):
        page_scores(query, bounds, groups, pages, layer=3, kv_heads=2, lanes=6, scale=1.0)
