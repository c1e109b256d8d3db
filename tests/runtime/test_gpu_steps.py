"""Steps of the GPU backend: kernels interpreted, captured passes and what follows them, padded rows, plans."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import fields
from typing import Any, TypeVar

import numpy as np
import pytest
import torch
from backend_kit import INTERPRETED, Listener
from gpu_kit import GPU_NAMES, SMALLEST, Planner, decode, opened, programs

from hotset.kernels.dispatch import interpreting
from hotset.kernels.resolve import PoolTooSmallError
from hotset.kernels.state import SCRATCH_FAILED
from hotset.protos.messages import Advice
from hotset.runtime import residency
from hotset.runtime.decoder import Decoder
from hotset.runtime.gpu import InlineDevice, steps
from hotset.runtime.gpu import residency as gpu_residency
from hotset.runtime.gpu.captured import WARM_UPS
from hotset.runtime.gpu.steps import BUCKETS, bucket, table_width
from hotset.runtime.residency import ResidencyManager

T = TypeVar("T")


@pytest.mark.skipif(not INTERPRETED, reason="Triton compiles here, so it cannot interpret as well")
def test_with_kernels_interpreted_tokens_do_not_depend_on_residency(make_model: Callable[..., Any]) -> None:
    """The kernels themselves: a pool that holds no more than it must, plans, a padded row, a captured pass."""
    model, listener = make_model(num_hidden_layers=1), Planner()
    with interpreting():
        untiered = decode(opened(model, "inline", 6, hbm_fraction=1.0))
        tiered = opened(model, "inline", 6, hbm_pages=3 * (2 + 2 * 4))
        assert decode(tiered, listener) == untiered
    moved = tiered.kv.manager.moved
    assert moved.demand_pages > 10
    assert moved.accesses == 2 * 4 * (3 * 3 + 2 + 1)
    assert sum(s.stats.demand_pages for s in listener.steps) == moved.demand_pages
    assert [program.captured for program in programs(tiered).values()] == [True]


@pytest.mark.parametrize("backend", GPU_NAMES)
def test_without_tiers_the_same_kernels_give_the_same_tokens(model: Any, backend: str) -> None:
    """The reference that the bench compares with."""
    reference = opened(model, backend, 12, tiered=False)
    assert decode(reference) == decode(opened(model, backend, 12, hbm_pages=SMALLEST))
    assert reference.kv.manager.moved.accesses == 0


@pytest.mark.parametrize("backend", GPU_NAMES)
def test_captured_or_not_gives_the_same_tokens(model: Any, backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steps, "CAPTURE_AFTER", 0)
    found = [opened(model, backend, 12, hbm_pages=SMALLEST, graphs=graphs) for graphs in (True, False)]
    assert decode(found[0]) == decode(found[1])
    captured = {shape[0]: program.captured for shape, program in programs(found[0]).items()}
    assert captured == {4: True, 2: False, 1: False}
    assert not any(program.captured for program in programs(found[1]).values())


def warming(decoder: Decoder, steps: int) -> list[bool]:
    """Of the next steps, whether they make what later ones replay."""
    found = []
    for _ in range(steps):
        decoder.step()
        found.append(decoder.steps.warming)
    return found


@pytest.mark.parametrize("backend", GPU_NAMES)
def test_what_follows_a_pass_is_captured_once_it_is_and_anew_where_the_reserve_changes(
    model: Any, backend: str
) -> None:
    decoder, listener = opened(model, backend, 40, hbm_pages=SMALLEST + 200, max_sequences=1), Listener()
    passes, more = WARM_UPS + 1, WARM_UPS + 1
    # The first step with the captured pass is the first that what follows is the same for.
    assert warming(decoder, passes + more + 2) == [True] * (passes + more - 1) + [False] * 3
    decoder.steering = listener
    assert warming(decoder, more + 2) == [True] * more + [False] * 2
    decoder.scheduler.advise(Advice(number=1, hot_slots=SMALLEST + 100))
    # One step has been launched already.
    assert warming(decoder, more + 3) == [False] + [True] * more + [False] * 2
    decode(decoder, listener)
    expected = [True] * more + [False] * 3 + [True] * more + [False] * 2
    assert [step.stats.warming for step in listener.steps][: len(expected)] == expected


@pytest.mark.parametrize("backend", ["cpu", *GPU_NAMES])
def test_ticks_that_are_counted_anew_change_nothing(model: Any, backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are of 32 bits, which a decode that runs for days would fill."""
    told, tokens = [], []
    for most in (1 << 29, 8):
        for module in (residency, gpu_residency):
            monkeypatch.setattr(module, "MOST_TICKS", most)
        torch.manual_seed(0)  # of its plans
        listener = Planner()
        decoder = opened(model, backend, 24, hbm_pages=SMALLEST + 9, max_sequences=1)
        decoder.steering, generation = listener, decoder.running[0]
        ticks = []
        while decoder.running:
            decoder.step()
            decoder.kv.check_integrity()
            ticks.append(decoder.kv.manager.tick())
        decoder.close()
        assert (max(ticks) >= 20) == (most > 8)
        told.append(listener.steps)
        tokens.append(generation.tokens)
    assert tokens[0] == tokens[1]
    for one, other in zip(*told, strict=True):
        assert np.array_equal(one.candidates, other.candidates)
        if backend == "inline":  # elsewhere it is open when a prefetch arrives
            assert np.array_equal(one.flags, other.flags)
            assert one.stats.entries_rejected == other.stats.entries_rejected
            assert one.stats.demand_pages == other.stats.demand_pages


@pytest.mark.parametrize("backend", GPU_NAMES)
def test_fewer_sequences_are_padded_before_they_get_a_program_of_their_own(
    model: Any, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two of the three end after 9 steps; a program of one row comes after CAPTURE_AFTER steps more."""
    reference = decode(opened(model, backend, 14, hbm_pages=SMALLEST, graphs=False))
    monkeypatch.setattr(steps, "CAPTURE_AFTER", 2)
    decoder, rows = opened(model, backend, 14, hbm_pages=SMALLEST), []
    generations = list(decoder.running)
    for generation in generations[1:]:
        generation.max_new_tokens = 10
    while decoder.running:
        decoder.step()
        rows.append(min(r for r, _ in programs(decoder)))
    decoder.close()
    assert rows == [4] * (9 + 2) + [1] * 2
    tokens = [whole[: len(g.tokens)] for whole, g in zip(reference, generations, strict=True)]
    assert [g.tokens for g in generations] == tokens


@pytest.mark.parametrize("backend", GPU_NAMES)
def test_what_warms_up_before_somebody_steers_changes_nothing(model: Any, backend: str) -> None:
    decoder = opened(model, backend, 6, hbm_pages=SMALLEST)
    decoder.step()
    decoder.kv.check_integrity()  # which has the host hear of what the device has counted
    manager = decoder.kv.manager
    before, moved = manager.state.clone(), copy.deepcopy(manager.moved)
    manager.warm_up_steering()
    decoder.kv.check_integrity()
    assert manager.moved == moved
    for field in fields(before):
        then, now = getattr(before, field.name), getattr(manager.state, field.name)
        assert torch.equal(then, now) if isinstance(then, torch.Tensor) else then == now, field.name
    decode(decoder)


def test_a_plan_enters_while_the_step_before_it_runs(model: Any) -> None:
    """On a device the host would only wait there; on a CPU a plan may enter at every layer of its step."""
    asked: list[tuple[int, bool]] = []

    class Asking(Listener):
        def apply(self, manager: ResidencyManager, epoch: int, patience: float = 0.0) -> None:
            asked.append((epoch, patience > 0))

    decode(opened(model, "inline", 6, hbm_pages=SMALLEST), Asking())
    assert asked == [(1, False)] + [(epoch, True) for epoch in range(2, 6)]
    asked.clear()
    decode(opened(model, "cpu", 6, hbm_pages=SMALLEST), Asking())
    assert set(asked) == {(epoch, False) for epoch in range(5)}


class NoGraphs(InlineDevice):
    """A device that captures nothing."""

    def capture(self, body: Callable[[], T]) -> Callable[[], T]:
        raise RuntimeError("operation not permitted when stream is capturing")


def test_what_cannot_be_captured_runs_as_it_is(model: Any, caplog: pytest.LogCaptureFixture) -> None:
    decoder = opened(model, "inline", 8, NoGraphs(), max_sequences=1)
    assert decode(decoder) == decode(opened(model, "inline", 8, max_sequences=1))
    assert not any(program.captured for program in programs(decoder).values())
    assert caplog.text.count("cannot be captured") == 1
    assert WARM_UPS < 8


@pytest.mark.parametrize("backend", GPU_NAMES)
def test_padded_rows_change_nothing(model: Any, backend: str) -> None:
    """Three sequences in a bucket of four: the same state and tokens whatever the buffers held before."""
    poisoned, clean = (opened(model, backend, 9, hbm_pages=SMALLEST + 5) for _ in range(2))
    for _ in range(4):
        poisoned.step()
        clean.step()
    inputs = programs(poisoned)[4, 64].inputs
    with torch.inference_mode():
        inputs.batch.groups[3] = 7
    inputs._held[3] = (99, 5)
    for _ in range(4):
        poisoned.step()
        clean.step()
    assert torch.equal(poisoned.kv.bounds, clean.kv.bounds)
    if backend == "inline":  # which slot a page gets is open on a GPU
        assert torch.equal(poisoned.kv.manager.state.slot_of, clean.kv.manager.state.slot_of)
        assert torch.equal(poisoned.kv.manager.rows, clean.kv.manager.rows)
    assert decode(poisoned) == decode(clean)


def test_a_pool_that_failed_inside_a_step_is_told_when_its_tokens_are(model: Any) -> None:
    decoder = opened(model, "inline", 6)
    decoder.step()
    decoder.kv.manager.state.scratch[SCRATCH_FAILED] = 5
    with pytest.raises(PoolTooSmallError, match="5 selected pages found no slot"):
        decoder.step()
    decoder.close()


def test_buckets() -> None:
    assert [bucket(n) for n in (1, 2, 3, 5, 9, 17, 24, 25, 33)] == [1, 2, 4, 8, 16, 24, 24, 32, 40]
    assert BUCKETS == (1, 2, 4, 8, 16, 24)
    assert [table_width(n) for n in (1, 64, 65, 2048)] == [64, 64, 128, 2048]
