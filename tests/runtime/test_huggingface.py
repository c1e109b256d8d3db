"""Which models can be served, and what is said of those that cannot."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers

from hotset.protos.errors import ConfigError
from hotset.runtime.huggingface import check_servable, load_model


@pytest.mark.parametrize(
    "config",
    [
        transformers.LlamaConfig(),
        transformers.Qwen2Config(),
        transformers.Qwen3Config(),
        transformers.MistralConfig(sliding_window=None),
    ],
    ids=lambda c: c.model_type,
)
def test_servable(config: transformers.PreTrainedConfig) -> None:
    check_servable(config)


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (transformers.MistralConfig(sliding_window=4096), "sliding window of 4096"),
        (
            transformers.Qwen2Config(use_sliding_window=True, sliding_window=64, max_window_layers=2),
            "sliding_attention",
        ),
        (transformers.Gemma2Config(), "caps attention logits"),
        (transformers.DeepseekV3Config(), "latent attention"),
        (transformers.T5Config(), "encoder-decoder"),
    ],
    ids=lambda c: getattr(c, "model_type", ""),
)
def test_not_servable_says_why(config: transformers.PreTrainedConfig, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        check_servable(config)


def test_no_such_model(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no model at"):
        load_model(tmp_path / "nothing", torch.float32)


def test_a_folder_without_a_model(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot load a model"):
        load_model(tmp_path, torch.float32)


def test_a_gguf_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(b"GGUF" + bytes(100))
    with pytest.raises(ConfigError, match="cannot load a model"):
        load_model(tmp_path / "model.gguf", torch.float32)
