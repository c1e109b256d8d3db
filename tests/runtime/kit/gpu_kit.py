"""Decoders of the GPU backend, with three prompts, and what the tests ask of them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from backend_kit import Listener, placed

from hotset.runtime.config import RuntimeConfig
from hotset.runtime.decoder import Decoder
from hotset.runtime.gpu import InlineDevice
from hotset.runtime.gpu.program import Program
from hotset.runtime.gpu.steps import DeviceSteps
from hotset.runtime.residency import ResidencyManager
from hotset.runtime.steering import Steering

PROMPTS = [list(range(1, 42)), list(range(20, 50)), [(7 * i) % 97 for i in range(24)]]
BASE: dict[str, Any] = {"page_size": 4, "selected": 4, "recent": 1, "max_tokens": 200, "max_sequences": 3,
                        "prefill_chunk": 16}  # fmt: skip
SMALLEST = 3 * (6 + 2 * 4)
GPU_NAMES = ["inline", pytest.param("cuda", marks=pytest.mark.gpu)]


class Planner(Listener):
    """Sends a plan for what it likes at every step, up to the `last`."""

    def __init__(self, last: int = 1 << 30) -> None:
        super().__init__()
        self.lost, self._last = 0, last
        self.told: list[tuple[int, dict[str, int]]] = []

    def lose_step(self) -> None:
        self.lost += 1

    def apply(self, manager: ResidencyManager, epoch: int, patience: float = 0.0) -> None:
        if epoch > self._last:
            return
        pages = torch.arange(epoch, epoch + 60, 5, dtype=torch.int32)
        generations = torch.zeros(pages.numel(), dtype=torch.int64)
        manager.follow(
            (pages, generations, torch.rand(pages.numel())), (pages, generations), epoch_tick=manager.tick(),
            until_tick=manager.tick() + 12, tell=lambda n, rejected: self.told.append((n, dict(rejected))),
        )  # fmt: skip


def opened(model: Any, backend: str, steps: int, device: InlineDevice | None = None, **options: Any) -> Decoder:
    given = placed(model, backend)
    if device is not None:
        given["device"] = device
    decoder = Decoder(**given, config=RuntimeConfig.checked(**{**BASE, **options}))
    for i, prompt in enumerate(PROMPTS[: decoder.config.max_sequences]):
        decoder.open(prompt, max_new_tokens=steps - i)
    return decoder


def decode(decoder: Decoder, steering: Steering | None = None) -> list[list[int]]:
    decoder.steering = steering or decoder.steering
    generations = list(decoder.running)
    for _ in decoder.run():
        pass
    if decoder.config.tiered:
        decoder.kv.check_integrity()
    decoder.close()
    return [g.tokens for g in generations]


def programs(decoder: Decoder) -> dict[tuple[int, int], Program]:
    assert isinstance(decoder.steps, DeviceSteps)
    return decoder.steps.programs
