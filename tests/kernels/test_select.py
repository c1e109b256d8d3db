"""select: kernel against reference id by id, and the rules that hold for any masses."""

from typing import Any

import pytest
import torch

from hotset.kernels.select import (
    mass_to_score,
    physical_pages,
    reference,
    select,
    select_given,
    select_scored,
    selected_places,
)


def _mass(
    width: int, counts: list[int], heads: int = 1, *, levels: int | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(width)
    mass = torch.rand(len(counts), heads, width)
    if levels:
        mass = torch.floor(mass * levels) / levels
    mass[torch.arange(width)[None, None].expand_as(mass) >= torch.tensor(counts)[:, None, None]] = 0.0
    return mass, torch.tensor(counts, dtype=torch.int32)


# `levels` makes many ties; 2,000 pages fill 2,048 lanes but for 48; of 33,000 two counts do not fit one word;
# sequences shorter than k, of one page and of none.
@pytest.mark.parametrize(
    ("width", "counts", "k", "n", "recent", "levels"),
    [
        (100, [100, 1, 0], 8, 16, 4, None),
        (100, [100, 9], 8, 21, 3, 5),
        (63, [63], 64, 128, 4, None),
        (2000, [2000], 100, 163, 0, 50),
        (63, [63, 63], 5, 5, 4, None),
        (33000, [33000, 20], 64, 128, 4, 500),
    ],
)
def test_kernel_equals_reference(
    width: int, counts: list[int], k: int, n: int, recent: int, levels: int | None, device: str
) -> None:
    mass, pages = _mass(width, counts, levels=levels)
    ids, scores = select_scored(mass.to(device), pages.to(device), selected=k, candidates=n, recent=recent)
    expected = reference.select(mass, pages, k, n, recent)
    expected_scores = reference.mass_to_score(mass, expected)
    assert torch.equal(ids.cpu(), expected)
    # log2 of the device may round an exact half the other way.
    assert (scores.cpu().int() - expected_scores.int()).abs().max() <= 1


def test_the_rules_of_a_selection(device: str) -> None:
    mass, pages = _mass(100, [100, 37], heads=2)
    ids = select(mass.to(device), pages.to(device), selected=16, candidates=32, recent=4).cpu()
    for b, count in enumerate(pages.tolist()):
        for h in range(2):
            chosen, rest = ids[b, h, :16].tolist(), ids[b, h, 16:][ids[b, h, 16:] >= 0].tolist()
            assert chosen == sorted(chosen)
            assert {0, *range(count - 4, count)} <= set(chosen)
            assert len(set(chosen + rest)) == min(count, 32)
            ranks = mass[b, h, rest].tolist()
            assert ranks == sorted(ranks, reverse=True)
            free = sorted(set(chosen) - {0, *range(count - 4, count)}, key=lambda p: -mass[b, h, p])
            assert mass[b, h, free[-1]] >= ranks[0]


def test_scores_are_eighths_of_octaves() -> None:
    mass = torch.tensor([[[1.0, 0.5, 0.25, 0.0, 7.0]]])
    ids = torch.tensor([[[0, 1, 2, 3, 4, -1]]], dtype=torch.int32)
    assert mass_to_score(mass, ids).tolist() == [[[255, 247, 239, 0, 255, 0]]]


def test_given_ids_are_cleaned() -> None:
    ids = torch.tensor([[[7, 3, 3, -5, 63, 0]]])
    given = select_given(ids, torch.tensor([63], dtype=torch.int32), n=8)
    assert given.tolist() == [[[0, 3, 7, -1, -1, -1, -1, -1]]]
    with pytest.raises(ValueError, match="6 ids do not fit 4 candidates"):
        select_given(ids, torch.tensor([63], dtype=torch.int32), n=4)


def test_physical_pages(device: str) -> None:
    torch.manual_seed(0)
    groups = torch.randint(0, 1000, (3, 63), dtype=torch.int32)
    ids = torch.randint(-1, 63, (3, 2, 100), dtype=torch.int32)
    pages = physical_pages(ids.to(device), groups.to(device), layer=2, kv_heads=2, lanes=6).cpu()
    for (b, h, i), page in zip(torch.cartesian_prod(*map(torch.arange, ids.shape)), pages.flatten(), strict=True):
        j = ids[b, h, i]
        assert page == (-1 if j < 0 else groups[b, j] * 6 + 4 + h)


def test_wrong_arguments_are_named() -> None:
    mass, pages = _mass(63, [63])
    with pytest.raises(ValueError, match="need recent < selected <= candidates"):
        select(mass, pages, selected=4, candidates=8, recent=4)


def test_selected_places(device: str) -> None:
    torch.manual_seed(1)
    batch, heads, n, k, width, lanes = 3, 2, 11, 7, 30, 6
    ids = torch.rand(batch, heads, width).argsort(-1)[..., :n].int()
    ids[1, :, 4:] = -1
    ids[2] = -1  # a padded row
    ids[0, 1, 2] = 29
    groups = torch.randperm(batch * width).int().view(batch, width)
    pages, last = torch.tensor([30, 30, 0], dtype=torch.int32), torch.tensor([3, 16, 0], dtype=torch.int32)
    options: dict[str, Any] = {"selected": k, "page_size": 16, "layer": 2, "lanes": lanes}
    moved = [tensor.to(device) for tensor in (ids, groups, pages, last)]
    physical, valid = (tensor.cpu() for tensor in selected_places(*moved, **options))
    for b in range(batch):
        for h in range(heads):
            for j in range(k):
                page = int(ids[b, h, j])
                assert int(physical[b, h, j]) == (-1 if page < 0 else int(groups[b, page]) * lanes + 4 + h)
                assert int(valid[b, h, j]) == (0 if page < 0 else int(last[b]) if page == int(pages[b]) - 1 else 16)
