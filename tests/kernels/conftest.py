"""Fixtures of the kernel tests: where a kernel runs, what it may be off by, and random residency states.

Every kernel test runs in Triton's interpreter on CPU tensors, and compiled on a GPU (`pytest -m gpu`).
Odd sizes are meant: 63 and 100 leave a part of the last block of 64, 32 or 128; 2,000 spans several blocks.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import fields

import pytest
import torch

from hotset.kernels.dispatch import interpreting
from hotset.kernels.reclaim import reference as reclaim_reference
from hotset.kernels.state import LIVE, PINNED, ResidencyState
from hotset.runtime.integrity import check_ring, check_slots

# Largest error against float64, relative to the largest value of the result.
TOLERANCES = {
    ("attend", torch.float32): 2e-6,
    ("attend", torch.float16): 2e-3,
    ("attend", torch.bfloat16): 1e-2,
    ("attend merged", torch.float32): 1e-5,
    ("attend merged", torch.float16): 3e-3,
    ("attend merged", torch.bfloat16): 2e-2,
    ("page_bounds mean", torch.float32): 1e-6,
    ("page_bounds mean", torch.float16): 1e-3,
    ("page_bounds mean", torch.bfloat16): 1e-2,
    ("page_scores", torch.float32): 1e-5,
    ("page_scores", torch.float16): 1e-5,
    ("page_scores", torch.bfloat16): 1e-5,
}


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> Iterator[str]:
    """Where the kernel under test runs; on "cpu" in the interpreter."""
    if request.param == "cuda":
        if not torch.cuda.is_available():
            pytest.skip("needs a CUDA device")
        yield "cuda"
    elif os.environ.get("TRITON_INTERPRET") != "1":
        pytest.skip("Triton compiles here, so it cannot interpret as well")
    else:
        with interpreting():
            yield "cpu"


@pytest.fixture
def close() -> Callable[[str, torch.dtype, torch.Tensor, torch.Tensor], None]:
    """`close(op, dtype, result, exact)` asserts that a result is within the op's tolerance of the float64 one."""

    def check(op: str, dtype: torch.dtype, result: torch.Tensor, exact: torch.Tensor) -> None:
        assert not result.isnan().any(), "an output was not written"
        error = (result.cpu().double() - exact).abs().max() / exact.abs().max()
        assert error <= TOLERANCES[op, dtype], f"{op} {dtype}: off by {error:.1e}"

    return check


@pytest.fixture
def random_state() -> Callable[..., ResidencyState]:
    """`random_state(seed, slots=, groups=, layers=, kv_heads=, reserve=, free=)`: a consistent state on the CPU."""
    return _random_state


def _random_state(
    seed: int, *, slots: int, groups: int, layers: int = 2, kv_heads: int = 3, reserve: int = 0, free: int = 0
) -> ResidencyState:
    torch.manual_seed(seed)
    state = ResidencyState.create(slots=slots, groups=groups, layers=layers, kv_heads=kv_heads)
    used = torch.randperm(slots)[: slots - free]
    pages = torch.randperm(groups * layers * kv_heads)[: used.numel()]
    state.page_of[used] = pages.int()
    state.slot_of[pages] = used.int()
    state.state[used] = LIVE
    state.state[used[: slots // 16]] = PINNED
    state.tick.fill_(100)
    state.step_tick.fill_(99)
    state.last_used[used] = torch.randint(50, 99, (used.numel(),), dtype=torch.int32)
    # Distinct values, so that there is only one right choice of victims.
    state.ema.copy_(torch.randperm(state.ema.numel()) * (255 / state.ema.numel()))
    state.prefetched[used] = torch.rand(used.numel()) < 0.2
    state.generation.copy_(torch.randint(0, 3, (groups,), dtype=torch.int32))
    if reserve:
        reclaim_reference.reclaim(state, low=reserve, high=reserve, policy="score-ema")
    return state


@pytest.fixture
def to() -> Callable[[ResidencyState, str], ResidencyState]:
    """`to(state, device)`: a copy of a state on a device."""

    def move(state: ResidencyState, device: str) -> ResidencyState:
        copy = state.clone()
        for field in fields(copy):
            value = getattr(copy, field.name)
            if isinstance(value, torch.Tensor):
                setattr(copy, field.name, value.to(device))
        return copy

    return move


@pytest.fixture
def same_state() -> Callable[[ResidencyState, ResidencyState], None]:
    """`same_state(ours, theirs)` asserts that both hold the same, up to which slot of a kind got which page."""
    return _same_state


def _same_state(ours: ResidencyState, theirs: ResidencyState) -> None:
    check_slots(ours)
    check_ring(ours)
    for name in ("tick", "step_tick", "generation", "ema"):
        assert torch.equal(getattr(ours, name), getattr(theirs, name)), name
    assert torch.equal(ours.slot_of >= 0, theirs.slot_of >= 0), "other pages are resident"
    assert _logged(ours) == _logged(theirs), "other pages were evicted"
    assert _kinds(ours) == _kinds(theirs), "slots differ in more than their names"


def _logged(state: ResidencyState) -> list[int]:
    log = state.evicted[: min(int(state.evicted_count), state.slots)].tolist()
    return sorted(page for page in log if page >= 0)


def _kinds(state: ResidencyState) -> list[tuple[float, ...]]:
    live = state.page_of >= 0
    columns = (state.state, state.last_used, state.value_until, state.prefetched & live, state.value)
    return sorted(zip(*(c.tolist() for c in columns), strict=True))
