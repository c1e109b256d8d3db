"""Choosing the next token: greedy, or sampled through transformers' own logits warpers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from transformers import LogitsProcessorList, TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from hotset.protos.errors import ConfigError


@dataclass(frozen=True)
class Sampling:
    """Temperature 0 is greedy. Raises ConfigError for values that make no sense."""

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.temperature < 0 or not 0 < self.top_p <= 1 or self.top_k < 0:
            raise ConfigError(
                f"sampling needs temperature >= 0, 0 < top_p <= 1, top_k >= 0; got {self.temperature}, "
                f"{self.top_p}, {self.top_k}"
            )


class Sampler:
    """The sampler of one sequence; its random stream depends on the seed alone, not on the batch."""

    def __init__(self, sampling: Sampling) -> None:
        self._random = torch.Generator().manual_seed(sampling.seed)
        self._warp: LogitsProcessorList | None = None
        if sampling.temperature > 0:
            self._warp = LogitsProcessorList([TemperatureLogitsWarper(sampling.temperature)])
            if sampling.top_k:
                self._warp.append(TopKLogitsWarper(sampling.top_k))
            if sampling.top_p < 1:
                self._warp.append(TopPLogitsWarper(sampling.top_p))

    @property
    def greedy(self) -> bool:
        """Whether the next token is the most probable one."""
        return self._warp is None

    def __call__(self, logits: torch.Tensor) -> int:
        """The next token for `logits` [vocabulary]."""
        if self._warp is None:
            return int(logits.argmax())
        history = torch.empty(1, 0, dtype=torch.long)
        scores = self._warp(cast(torch.LongTensor, history), cast(torch.FloatTensor, logits.float()[None].cpu()))
        return int(torch.multinomial(scores.softmax(-1)[0], 1, generator=self._random))
