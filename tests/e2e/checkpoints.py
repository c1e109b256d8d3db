"""A model small enough to decode with in every test."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

WORDS = tuple(f"w{i}" for i in range(64))


def write_checkpoint(folder: Path, words: Sequence[str] = WORDS) -> None:
    """Write a Llama checkpoint into `folder`: random weights, 64 words, the first of them for all others."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64, hidden_size=64, intermediate_size=96, num_hidden_layers=4, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=8192, bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    model = LlamaForCausalLM(config)  # type: ignore[no-untyped-call]
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "q_proj" in name or "k_proj" in name:
                weight.mul_(8)
    model.save_pretrained(folder)
    numbers = {word: i for i, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordLevel(numbers, unk_token=words[0]))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token=words[0])  # type: ignore[no-untyped-call]
    wrapped.save_pretrained(folder)
