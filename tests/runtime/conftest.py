"""Tiny random models of the families that the runtime serves; real decoding, in milliseconds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any

import pytest
import torch
import transformers
from backend_kit import BACKENDS, backend_device

from hotset.kernels.dispatch import interpreting
from hotset.runtime.gpu import Device
from hotset.runtime.huggingface import ATTENTION

SIZES = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "tie_word_embeddings": False,
}


def tiny_model(family: str = "Llama", **options: Any) -> Any:
    """A random model with weights large enough that attention is far from uniform."""
    torch.manual_seed(7)
    extra = {"sliding_window": None} if family == "Mistral" else {}
    config = getattr(transformers, f"{family}Config")(**{**SIZES, **extra, **options}, attn_implementation=ATTENTION)
    model = getattr(transformers, f"{family}ForCausalLM")(config).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "q_proj" in name or "k_proj" in name:
                weight.mul_(12)
    return model


@pytest.fixture(scope="session")
def make_model() -> Callable[..., Any]:
    return tiny_model


@pytest.fixture(scope="session")
def model() -> Any:
    return tiny_model()


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> Iterator[Device | str]:
    """Each backend in turn; its kernels run interpreted where that is its name."""
    with interpreting() if request.param == "interpreted" else nullcontext():
        yield backend_device(request.param)
