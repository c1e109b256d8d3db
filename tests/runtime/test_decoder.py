"""Which tokens come out never depends on residency: every policy, pool size and plan gives the same ones.

On the CPU backend, and on the GPU's: with its ops' references here, compiled on a GPU. What is special about the GPU's
steps is in test_gpu_steps.py.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from backend_kit import backend_device, placed

from hotset.kernels.state import ResidencyState
from hotset.protos.errors import CapacityError, ConfigError
from hotset.protos.messages import AccessFlag, Message, Plan, Step
from hotset.runtime.config import RuntimeConfig
from hotset.runtime.decoder import Decoder, PromptKV
from hotset.runtime.residency import ResidencyManager
from hotset.runtime.sampling import Sampling
from hotset.runtime.steering import Steering

PROMPTS = [list(range(1, 75)), list(range(20, 81)), [(7 * i) % 97 for i in range(48)]]  # 48: no tail after prefill
BASE: dict[str, Any] = {"page_size": 4, "selected": 6, "recent": 2, "max_tokens": 400, "max_sequences": 3,
                        "prefill_chunk": 32}  # fmt: skip
SMALLEST = 3 * (6 + 2 * 6)


def decode(
    model: Any, steering: Steering | None = None, steps: int = 24, backend: str = "cpu", **options: Any
) -> list[list[int]]:
    decoder = Decoder(**placed(model, backend), config=RuntimeConfig.checked(**{**BASE, **options}))
    decoder.steering = steering or decoder.steering
    sampling = [Sampling(), Sampling(temperature=0.9, top_p=0.95, seed=3), Sampling(temperature=1.1, top_k=20, seed=4)]
    generations = [
        decoder.open(p, max_new_tokens=steps - 3 * i, sampling=s)
        for i, (p, s) in enumerate(zip(PROMPTS, sampling, strict=True))
    ]
    for _ in decoder.run():
        decoder.kv.check_integrity()
    decoder.close()
    return [g.tokens for g in generations]


@pytest.fixture(scope="module", params=["cpu", "inline", pytest.param("cuda", marks=pytest.mark.gpu)])
def backend(request: pytest.FixtureRequest) -> str:
    backend_device(request.param)
    return str(request.param)


@pytest.fixture(scope="module")
def untiered(model: Any, backend: str) -> list[list[int]]:
    return decode(model, backend=backend, hbm_fraction=1.0)


@pytest.mark.parametrize("policy", ["lru", "score-ema", "margin-ema"])
@pytest.mark.parametrize("pool", [SMALLEST, SMALLEST + 7, 100, 300])
def test_tokens_do_not_depend_on_policy_or_pool(
    model: Any, backend: str, untiered: list[list[int]], policy: str, pool: int
) -> None:
    assert decode(model, backend=backend, policy=policy, hbm_pages=pool) == untiered


def test_tokens_do_not_depend_on_the_disk_tier(
    model: Any, backend: str, untiered: list[list[int]], tmp_path: Path
) -> None:
    assert decode(model, backend=backend, hbm_pages=SMALLEST, host_pages=70, disk_dir=tmp_path) == untiered


def test_a_cold_pool_really_misses(model: Any) -> None:
    decoder = Decoder(model, None, RuntimeConfig.checked(**{**BASE, "hbm_pages": SMALLEST}))
    for prompt in PROMPTS:
        decoder.open(prompt, max_new_tokens=8)
    reports = list(decoder.run())
    decoder.close()
    assert sum(r.demand_misses for r in reports) > 100
    assert reports[0].accesses == 3 * 6 * 6


class Fuzzer(Steering):
    """A daemon that knows every page and generation and sends nonsense about them, at every safe point."""

    def __init__(self, seed: int) -> None:
        self.random = np.random.default_rng(seed)
        self.steps: list[Step] = []

    @property
    def attached(self) -> bool:
        return True

    def publish(self, message: Message) -> None:
        if isinstance(message, Step):
            self.steps.append(message)

    def apply(self, manager: ResidencyManager, epoch: int, patience: float = 0.0) -> None:
        state: ResidencyState = manager.state
        count = int(self.random.integers(0, 200))
        pages = torch.tensor(self.random.integers(-3, state.slot_of.numel() + 3, count), dtype=torch.int32)
        groups = pages.long().clamp(0, state.slot_of.numel() - 1) // state.lanes
        generations = state.generation.cpu()[groups].long() + torch.tensor(self.random.integers(0, 5, count) == 0)
        values = torch.tensor(self.random.choice([0.0, 9.0, -9.0, np.nan, np.inf, 1e30], count), dtype=torch.float32)
        manager.apply_plan(pages, generations, values, epoch_tick=int(state.tick), until_tick=int(state.tick) + 30)
        manager.prefetch(pages, generations)


@pytest.mark.parametrize("seed", range(4))
def test_tokens_do_not_depend_on_hostile_plans(model: Any, backend: str, untiered: list[list[int]], seed: int) -> None:
    fuzzer = Fuzzer(seed)
    assert decode(model, steering=fuzzer, backend=backend, hbm_pages=[SMALLEST, 90, 150, 300][seed]) == untiered
    assert len(fuzzer.steps) == 23


def test_step_messages_tell_what_happened(model: Any, backend: str) -> None:
    """Selections are as configured, hits are exactly what was resident, and changes add up to residency."""
    fuzzer = Fuzzer(0)
    decode(model, steering=fuzzer, backend=backend, hbm_pages=100)
    assert [step.epoch for step in fuzzer.steps] == list(range(23))
    resident: set[int] = set()
    for step in fuzzer.steps:
        selected = (step.flags & AccessFlag.SELECTED) != 0
        assert bool((selected.sum(1) == 6).all())
        assert bool((step.candidates[~selected & (step.scores > 0)] >= 0).all())
        assert bool(((step.flags & AccessFlag.HIT) <= 2 * selected).all())
        resident = (resident | set(step.loaded.tolist())) - set(step.evicted.tolist())
        assert len(resident) <= 100
        assert np.count_nonzero(selected & ((step.flags & AccessFlag.HIT) == 0)) >= step.stats.demand_pages


@pytest.mark.parametrize("family", ["Llama", "Qwen2", "Qwen3", "Mistral"])
def test_full_selection_equals_plain_attention(make_model: Callable[..., Any], family: str) -> None:
    """With every page selected, our decode must give what the model's own attention gives."""
    model = make_model(family)
    decoder = Decoder(model, None, RuntimeConfig.checked(**{**BASE, "selected": 40, "hbm_fraction": 1.0}))
    generations = [decoder.open(p, max_new_tokens=10) for p in PROMPTS]
    list(decoder.run())
    decoder.close()
    model.set_attn_implementation("sdpa")
    for prompt, generation in zip(PROMPTS, generations, strict=True):
        with torch.inference_mode():
            logits = model(input_ids=torch.tensor([prompt + generation.tokens])).logits[0]
        assert generation.tokens == logits[len(prompt) - 1 : -1].argmax(-1).tolist()


def test_the_oracle_selector_finds_at_least_the_mass_of_bounds(model: Any, backend: str) -> None:
    found = decode(model, steps=8, backend=backend, selector="mass", hbm_pages=SMALLEST)
    assert [len(tokens) for tokens in found] == [8, 5, 2]


def test_given_prompt_kv_saves_the_prefill_and_changes_nothing(model: Any, backend: str) -> None:
    kept = PromptKV()
    decoder = Decoder(**placed(model, backend), config=RuntimeConfig.checked(**BASE))
    first = decoder.open(PROMPTS[0], max_new_tokens=6, keep=kept)
    second = decoder.open(PROMPTS[0], max_new_tokens=6, given=kept)
    list(decoder.run())
    decoder.close()
    assert first.tokens == second.tokens


def test_a_fork_shares_sealed_pages_and_decodes_alike(model: Any, backend: str) -> None:
    decoder = Decoder(**placed(model, backend), config=RuntimeConfig.checked(**{**BASE, "hbm_pages": 120}))
    parent = decoder.open(PROMPTS[0], max_new_tokens=12)
    free = decoder.kv.groups.free_groups
    child = decoder.fork(parent, max_new_tokens=11)
    assert free - decoder.kv.groups.free_groups == 1  # the tail's copy
    assert child.sequence.groups[:-1] == parent.sequence.groups[:-1]
    for _ in decoder.run():
        decoder.kv.check_integrity()
    decoder.close()
    assert child.tokens == parent.tokens
    assert decoder.kv.groups.free_groups == len(decoder.kv.groups.references)


def test_a_sequence_that_finds_no_room_ends_with_a_reason(model: Any) -> None:
    decoder = Decoder(model, None, RuntimeConfig.checked(**{**BASE, "max_tokens": 76, "max_sequences": 1}))
    generation = decoder.open(PROMPTS[0], max_new_tokens=60)
    with pytest.raises(CapacityError, match="--max-tokens"):
        list(decoder.run())
    assert generation.finished.startswith("capacity")
    decoder.close()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"hbm_pages": SMALLEST - 1}, "cannot decode 3 sequences"),
        ({"selected": 1}, "selected"),
        ({"hbm_fraction": 0}, "hbm_fraction"),
        ({"policy": "magic"}, "policy"),
        ({"page": 3}, "page"),
    ],
)
def test_bad_options_are_named(model: Any, options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        Decoder(model, None, RuntimeConfig.checked(**{**BASE, **options}))


def test_a_share_of_little_kv_is_what_decoding_needs(model: Any, untiered: list[list[int]]) -> None:
    """A short prompt with the default share: a quarter of its KV would be less than one step selects."""
    assert RuntimeConfig.checked(**{**BASE, "hbm_fraction": 0.01}).slots(3, 2) == SMALLEST
    assert decode(model, hbm_fraction=0.01) == untiered


def test_a_prompt_too_long_keeps_nothing(model: Any) -> None:
    decoder = Decoder(model, None, RuntimeConfig.checked(**{**BASE, "max_tokens": 40, "hbm_fraction": 1.0}))
    with pytest.raises(CapacityError, match="page groups"):
        decoder.open(PROMPTS[0], max_new_tokens=4)
    with pytest.raises(ConfigError, match="at least one token"):
        decoder.open([], max_new_tokens=4)
    decoder.kv.check_integrity()
    assert not decoder.kv.sequences
    decoder.close()


def test_plan_message_round_trip_through_steering_types() -> None:
    """The fuzzer above bypasses the wire; a Plan must still accept what a daemon can send."""
    empty = np.empty(0, "<i4")
    plan = Plan(number=1, epoch=1, deadline=2, source="heuristic", pages=empty, generations=empty.astype("<u4"),
                values=empty.astype("<f4"), prefetch=empty, prefetch_generations=empty.astype("<u4"))  # fmt: skip
    assert plan.deadline == 2
