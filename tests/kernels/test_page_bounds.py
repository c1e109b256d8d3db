"""page_bounds against float64, with outputs poisoned."""

from collections.abc import Callable

import pytest
import torch

from hotset.kernels.page_bounds import page_bounds

Close = Callable[[str, torch.dtype, torch.Tensor, torch.Tensor], None]

# 7 tokens: no power of two; 100 dimensions: neither.
SHAPES = [(16, 64), (7, 100), (1, 576)]
DTYPES = [torch.float32, torch.float16, torch.bfloat16]


def _case(page: int, dim: int, dtype: torch.dtype, device: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(page)
    rows = torch.randn(9, 2 if dim < 576 else 1, page, dim).to(dtype)
    physical = torch.randperm(63)[:9].int()
    physical[4] = -1
    bounds = torch.full((63, 2, dim), torch.nan, dtype=dtype, device=device)
    return rows.to(device), physical.to(device), bounds


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("page", "dim"), SHAPES)
def test_minmax_is_exact_and_touches_only_its_pages(page: int, dim: int, dtype: torch.dtype, device: str) -> None:
    rows, physical, bounds = _case(page, dim, dtype, device)
    page_bounds(rows, physical, bounds)
    kept = physical >= 0
    keys = rows[kept, 0].double()
    written = bounds[physical[kept].long()].double()
    assert torch.equal(written, torch.stack((keys.amin(1), keys.amax(1)), 1))
    assert int(bounds.isnan().all(-1).all(-1).sum()) == 63 - 8


@pytest.mark.parametrize("dtype", DTYPES)
def test_mean_is_written_twice(dtype: torch.dtype, device: str, close: Close) -> None:
    rows, physical, bounds = _case(7, 100, dtype, device)
    page_bounds(rows, physical, bounds, kind="mean")
    kept = physical >= 0
    written = bounds[physical[kept].long()]
    assert torch.equal(written[:, 0], written[:, 1])
    close("page_bounds mean", dtype, written[:, 0], rows[kept, 0].cpu().double().mean(1))


def test_wrong_arguments_are_named() -> None:
    bounds = torch.zeros(4, 2, 8)
    physical = torch.zeros(1, dtype=torch.int32)
    with pytest.raises(ValueError, match="unknown summary 'median'"):
        page_bounds(torch.zeros(1, 2, 4, 8), physical, bounds, kind="median")
    with pytest.raises(ValueError, match=r"physical must be torch\.int32"):
        page_bounds(torch.zeros(1, 2, 4, 8), physical.long(), bounds)
    with pytest.raises(ValueError, match=r"bounds must have shape \[any, 2, 6\]"):
        page_bounds(torch.zeros(1, 2, 4, 6), physical, bounds)
    with pytest.raises(ValueError, match="rows must be contiguous"):
        page_bounds(torch.zeros(1, 2, 8, 4).transpose(2, 3), physical, bounds)
