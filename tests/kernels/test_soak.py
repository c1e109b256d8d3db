"""20,000 layer calls on a GPU with random plans and prefetches: attention never sees where a page sits."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from hotset.kernels.apply_plan import apply_plan
from hotset.kernels.attend import attend
from hotset.kernels.prefetch import begin_prefetch, commit_prefetch
from hotset.kernels.reclaim import reclaim
from hotset.kernels.resolve import raise_if_failed, resolve
from hotset.kernels.state import ResidencyState
from hotset.kernels.swap_in import rows_of, swap_in
from hotset.runtime.integrity import check_ring, check_slots

GROUPS, LAYERS, KV_HEADS, SLOTS = 63, 2, 2, 100
BATCH, SELECTED, PAGE, DIM = 3, 9, 16, 64
LANES = LAYERS * KV_HEADS
Move = Callable[[ResidencyState, str], ResidencyState]


class _Decode:
    """A tiered and an untiered pool of the same pages; `differ` counts outputs that are not the same bits."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        count = GROUPS * LANES
        self.untiered = torch.randn(count, 2, PAGE, DIM, device="cuda", dtype=torch.bfloat16)
        self.host = self.untiered.cpu().pin_memory()
        self.slots = torch.full((SLOTS, 2, PAGE, DIM), torch.nan, device="cuda", dtype=torch.bfloat16)
        self.state = ResidencyState.create(slots=SLOTS, groups=GROUPS, layers=LAYERS, kv_heads=KV_HEADS, device="cuda")
        self.differ = torch.zeros((), dtype=torch.int64, device="cuda")
        self.missed = torch.zeros(1, dtype=torch.int64, device="cuda")
        self.valid = torch.full((BATCH, KV_HEADS, SELECTED), PAGE, dtype=torch.int32, device="cuda")

    def layer(self, layer: int) -> None:
        groups = torch.rand(BATCH, KV_HEADS, GROUPS, device="cuda").argsort(-1)[..., :SELECTED]
        pages = (groups * LANES + layer * KV_HEADS + torch.arange(KV_HEADS, device="cuda")[:, None]).int()
        done = resolve(self.state, pages.flatten(), "score-ema", advance=True)
        swap_in(rows_of(self.host), rows_of(self.slots), done.miss_pages, done.miss_slots, done.miss_count)
        query = torch.randn(BATCH, 4, DIM, device="cuda", dtype=torch.bfloat16)
        tiered = attend(query, self.slots, done.slots.view_as(pages), self.valid, scale=0.125)
        untiered = attend(query, self.untiered, pages, self.valid, scale=0.125)
        self.differ += (tiered != untiered).any()
        self.missed += done.miss_count

    def steer(self, step: int) -> None:
        """A hostile plan, some of it stale, then a prefetch that becomes visible at once."""
        pages = torch.randint(-5, GROUPS * LANES + 5, (20,), device="cuda", dtype=torch.int32)
        generations = torch.randint(0, 2, (20,), device="cuda") - 1
        values = torch.randn(20, device="cuda") * 100
        apply_plan(self.state, pages, generations + 1, values, epoch_tick=2 * step, until_tick=2 * step + 6)
        begun, slots, _, counts = begin_prefetch(self.state, pages, generations + 1, keep=2)
        swap_in(rows_of(self.host), rows_of(self.slots), begun, slots, counts[:1].int())
        commit_prefetch(self.state, begun, slots, torch.zeros_like(generations))
        self.state.ema.uniform_(0, 255)


@pytest.mark.gpu
def test_soak(to: Move) -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    decode = _Decode()
    for step in range(10_000):
        decode.state.step_tick.copy_(decode.state.tick + 1)
        for layer in range(LAYERS):
            decode.layer(layer)
        decode.steer(step)
        reclaim(decode.state, low=5, high=12, policy="score-ema")
        if step % 1000 == 0:
            check_slots(to(decode.state, "cpu"))
            check_ring(to(decode.state, "cpu"))
    raise_if_failed(decode.state)
    state = to(decode.state, "cpu")
    check_slots(state)
    check_ring(state)
    held = state.page_of >= 0
    rows = decode.slots[held.cuda()]
    assert torch.equal(rows, decode.untiered[state.page_of[held].long().cuda()]), "a slot holds another page's bytes"
    assert int(decode.missed) > 100_000, "the soak must miss"
    assert int(decode.differ) == 0
