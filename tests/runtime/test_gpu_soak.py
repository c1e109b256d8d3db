"""Many steps of the GPU backend under random plans: the state stays whole, and the output is that without tiers.

On a GPU 20,000 steps; here, with the ops' references, as many as take a second. GPU_SOAK_STEPS sets another number.
"""

from __future__ import annotations

import os
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from backend_kit import placed

from hotset.runtime.config import RuntimeConfig
from hotset.runtime.decoder import Decoder, Request
from hotset.runtime.residency import ResidencyManager
from hotset.runtime.steering import Steering

OPTIONS: dict[str, Any] = {"page_size": 4, "selected": 6, "recent": 2, "max_sequences": 3, "prefill_chunk": 32}
CHECK_EVERY = 500
TURN = 120
"""Tokens that a sequence decodes before another takes its place: groups, frames and slots go from hand to hand."""
STOP = 43
"""Most texts come upon it before that, and end while their next step is under way."""


class RandomPlans(Steering):
    """Values and prefetches at random, some stale, some nonsense, at every step; nobody listens."""

    def __init__(self, seed: int, pages: int, groups: int) -> None:
        self.random, self._pages, self._lanes = np.random.default_rng(seed), pages, pages // groups
        self.applied = 0

    def apply(self, manager: ResidencyManager, epoch: int, patience: float = 0.0) -> None:
        count = int(self.random.integers(0, 40))
        pages = torch.tensor(self.random.integers(-3, self._pages + 3, count), dtype=torch.int32)
        inside = pages.clamp(0, self._pages - 1).tolist()
        generations = torch.tensor([manager.generation(p // self._lanes) for p in inside], dtype=torch.int64)
        generations += torch.from_numpy(self.random.integers(0, 8, count) == 0)
        values = torch.tensor(self.random.choice([0.0, 9.0, -9.0, np.nan, np.inf], count), dtype=torch.float32)
        manager.follow((pages, generations, values), (pages, generations), epoch_tick=manager.tick(),
                       until_tick=manager.tick() + 30, tell=self._tell)  # fmt: skip

    def _tell(self, applied: int, rejected: object) -> None:
        self.applied += applied


def decode(model: Any, backend: str, steps: int, plans: bool, **options: Any) -> list[list[int]]:
    """Sequences in three places for `steps` steps; tokens of all of them."""
    config = RuntimeConfig.checked(**{**OPTIONS, "max_tokens": 3 * (TURN + 80), **options})
    given = {**placed(model, backend), "tokenizer": SimpleNamespace(eos_token_id=STOP)}
    decoder = Decoder(**given, config=config)
    if plans:
        groups = len(decoder.kv.groups.references)
        decoder.steering = RandomPlans(1, groups * decoder.kv.lanes, groups)
    requests: list[Request] = []
    for step in range(steps):
        while len(decoder.running) + len(decoder.scheduler.waiting) < 3:
            start = 7 * len(requests)
            prompt = [(start + 5 * i) % 97 for i in range(30 + len(requests) % 11)]
            requests.append(decoder.submit(prompt, max_new_tokens=TURN + len(requests) % 5))
        decoder.step()
        if step % CHECK_EVERY == 0 and config.tiered:
            decoder.kv.check_integrity()
    if plans:
        decoder.kv.check_integrity()
        assert isinstance(decoder.steering, RandomPlans)
        assert decoder.steering.applied > steps // 4
        assert decoder.kv.manager.moved.demand_pages > 3 * steps
    assert sum(r.generation is not None and r.generation.finished == "stop" for r in requests) > steps // TURN
    tokens = [list(r.generation.tokens) for r in requests if r.generation is not None]
    decoder.close()
    return tokens


def soak(model: Any, backend: str, steps: int) -> None:
    untiered = decode(model, backend, steps, False, tiered=False)
    assert decode(model, backend, steps, True, hbm_pages=100) == untiered
    assert len(untiered) > steps // TURN


def test_soak_without_a_gpu(model: Any) -> None:
    soak(model, "inline", 150)


@pytest.mark.gpu
def test_soak(model: Any) -> None:
    soak(model, "cuda", int(os.environ.get("GPU_SOAK_STEPS", "20000")))
