"""What is decoded: which model, how long a context, how many pages a step selects."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import transformers

from hotset.ops import samples
from hotset.runtime.huggingface import ATTENTION, load_model


@dataclass(frozen=True)
class Shape:
    """A model and a context. `config` None: the embedded model with real prompts, else random weights."""

    name: str
    context: int
    selected: int
    batches: tuple[int, ...]
    dtype: torch.dtype
    page_size: int = 16
    config: dict[str, Any] | None = None

    @property
    def start(self) -> int:
        """Tokens that a sequence has before it decodes, at least."""
        return self.context - min(512, self.context // 2)

    def load(self, device: str) -> tuple[Any, Any]:
        """The model and its tokenizer; a random model has none. Raises ConfigError if the embedded one is missing."""
        if self.config is None:
            return load_model(samples.embedded_model(), self.dtype, device)
        sizes = {**self.config, "tie_word_embeddings": False, "attn_implementation": ATTENTION}
        config = transformers.LlamaConfig(**sizes)
        before = torch.get_default_dtype()
        torch.set_default_dtype(self.dtype)
        try:
            torch.manual_seed(0)
            with torch.device(device):
                model: Any = transformers.LlamaForCausalLM(config)  # type: ignore[no-untyped-call]
                return model.eval(), None
        finally:
            torch.set_default_dtype(before)


BATCHES = (1, 2, 4, 8, 16, 24)
LLAMA = {
    "vocab_size": 128256, "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
    "num_attention_heads": 32, "num_key_value_heads": 8, "max_position_embeddings": 32768,
}  # fmt: skip
TINY = {
    "vocab_size": 97, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 1024,
}  # fmt: skip
SHAPES = {
    "llama": Shape("Llama-3-8B shape", 32768, 128, BATCHES, torch.bfloat16, config=LLAMA),
    "smollm2": Shape("SmolLM2-135M", 8192, 64, BATCHES, torch.bfloat16),
    "tiny": Shape("tiny", 256, 8, (1, 3), torch.float32, page_size=4, config=TINY),
}
