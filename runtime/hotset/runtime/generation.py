"""What a sequence is asked for and what has come out of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from hotset.protos.errors import ConfigError
from hotset.runtime.groups import Sequence
from hotset.runtime.sampling import Sampler, Sampling


@dataclass
class Generation:
    """One sequence's prompt and what has come out of it."""

    sequence: Sequence
    prompt: list[int]
    max_new_tokens: int
    sampler: Sampler
    tokens: list[int] = field(default_factory=list)
    finished: str = ""


@dataclass
class PromptKV:
    """K and V of a prompt as the model made them, per chunk and layer, and the logits behind its last token.

    Kept by `Decoder.open(keep=...)` outside all tiers; `Decoder.open(given=...)` takes them instead of a prefill.
    """

    chunks: list[list[tuple[torch.Tensor, torch.Tensor]]] = field(default_factory=list)
    logits: torch.Tensor = field(default_factory=lambda: torch.empty(0))


@dataclass
class Request:
    """A prompt that waits for admission; `generation` is set once it has started."""

    prompt: list[int]
    max_new_tokens: int
    sampling: Sampling = field(default_factory=Sampling)
    progress: Callable[[int], None] = lambda tokens: None
    keep: PromptKV | None = None
    given: PromptKV | None = None
    generation: Generation | None = None

    @classmethod
    def checked(
        cls,
        prompt: list[int],
        max_new_tokens: int,
        sampling: Sampling | None,
        progress: Callable[[int], None],
        keep: PromptKV | None,
        given: PromptKV | None,
    ) -> Request:
        """Raises ConfigError for an empty prompt, or if no token is wanted."""
        if not prompt or max_new_tokens < 1:
            raise ConfigError("a prompt needs at least one token, and max_new_tokens must be 1 or more")
        return cls(prompt, max_new_tokens, sampling or Sampling(), progress, keep, given)

    @property
    def longest(self) -> int:
        """Tokens that its sequence may come to hold; the last one decoded is never written."""
        return len(self.prompt) + self.max_new_tokens - 1
