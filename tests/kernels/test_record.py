"""record and fold: what a step accessed, and the averages that follow, against what a decode on a CPU computes."""

from __future__ import annotations

import pytest
import torch

from hotset.kernels.fold import fold
from hotset.kernels.fold import reference as fold_reference
from hotset.kernels.record import Accessed, Recorded, record
from hotset.protos.heat import CEILING, DECAY, EPSILON
from hotset.protos.messages import AccessFlag

LAYERS, BATCH, HEADS, PAGES = 3, 4, 2, 15


def accessed(k: int, n: int) -> tuple[Accessed, int]:
    """Distinct ids a lane, pads behind; the last sequence is a padded row; groups of different sequences differ."""
    torch.manual_seed(k)
    ids = torch.rand(LAYERS, BATCH, HEADS, max(PAGES, n)).argsort(-1)[..., :n].int()
    ids[ids >= PAGES] = -1
    ids[:, -1] = -1
    hit = torch.rand(LAYERS, BATCH, HEADS, k) < 0.7
    scores = torch.randint(0, 256, ids.shape, dtype=torch.uint8)
    groups = torch.randperm(BATCH * PAGES).int().view(BATCH, PAGES)
    prefetched = hit & (torch.rand(hit.shape) < 0.4)
    return Accessed(ids, scores, hit, prefetched, groups), BATCH * PAGES * LAYERS * HEADS


@pytest.mark.parametrize("by_margin", [False, True])
@pytest.mark.parametrize(("k", "n"), [(3, 7), (6, 12), (9, 9)])
def test_heat_flags_and_counts(device: str, k: int, n: int, by_margin: bool) -> None:
    step, pages = accessed(k, n)
    wire = (BATCH, LAYERS, HEADS, n)
    found: list[list[torch.Tensor]] = []
    for where in ("cpu", device):
        moved = Accessed(**{name: value.to(where) for name, value in vars(step).items()})
        out = Recorded(
            torch.full(wire, -9, dtype=torch.int32, device=where),
            *(torch.full(wire, 99, dtype=torch.uint8, device=where) for _ in range(2)),
        )
        average = torch.arange(pages, device=where) / pages
        counts = torch.full((4,), 5, dtype=torch.int64, device=where)
        if where == "cpu" and not found:
            from hotset.kernels.record import reference

            reference.record(moved, average, counts, by_margin, out)
        else:
            record(moved, average, counts, by_margin=by_margin, out=out)
        found.append([tensor.cpu() for tensor in (average, counts, *vars(out).values())])
    assert torch.allclose(found[0][0], found[1][0], rtol=1e-6, atol=1e-6)
    for expected, got in zip(found[0][1:], found[1][1:], strict=True):
        assert torch.equal(expected, got)
    flags, selected = found[1][4], step.ids.transpose(0, 1)[..., :k] >= 0
    assert torch.equal((flags[..., :k] & AccessFlag.SELECTED) != 0, selected)
    assert torch.equal((flags[..., :k] & AccessFlag.HIT) != 0, step.hit.transpose(0, 1) & selected)
    assert int(flags[..., k:].sum()) == 0
    assert found[1][1].tolist()[0] == 5 + int(selected.sum())
    assert found[1][1].tolist()[3] == 5


def test_without_out_only_the_averages_change(device: str) -> None:
    step, pages = accessed(3, 7)
    moved = Accessed(**{name: value.to(device) for name, value in vars(step).items()})
    kept = [value.clone() for value in vars(moved).values()]
    average, counts = torch.zeros(pages, device=device), torch.zeros(3, dtype=torch.int64, device=device)
    record(moved, average, counts, by_margin=False)
    assert float(average.sum()) == pytest.approx(
        float(step.scores[step.ids >= 0].sum()) * (1 - DECAY) / DECAY, rel=1e-5
    )
    assert all(torch.equal(a, b) for a, b in zip(kept, vars(moved).values(), strict=True))


@pytest.mark.parametrize("by_margin", [False, True])
@pytest.mark.parametrize("pages", [63, 2000, 4100])
def test_fold(device: str, pages: int, by_margin: bool) -> None:
    average = torch.rand(pages) * 40
    ours, ema = average.clone().to(device), torch.full((pages,), torch.nan, device=device)
    fold(ours, ema, by_margin=by_margin)
    assert torch.allclose(ours.cpu(), average * DECAY)
    value = CEILING - torch.log2((average * DECAY).double() + EPSILON)
    exact = (255 - 8 * value).float() if by_margin else average * DECAY
    assert torch.allclose(ema.cpu(), exact, rtol=1e-5, atol=1e-3)
    fold_reference.fold(average, expected := torch.empty(pages), by_margin)
    assert torch.allclose(expected, exact, rtol=1e-5, atol=1e-3)


def test_wrong_arguments_are_named() -> None:
    step, pages = accessed(3, 7)
    with pytest.raises(ValueError, match=r"counts must be torch\.int64"):
        record(step, torch.zeros(pages), torch.zeros(3), by_margin=False)
    with pytest.raises(ValueError, match="ema must have shape"):
        fold(torch.zeros(3), torch.zeros(4), by_margin=False)
