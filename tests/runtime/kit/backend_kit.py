"""The backends that the conformance tests run on."""

from __future__ import annotations

import copy
import os
from functools import cache
from typing import Any

import pytest
import torch

from hotset.protos.messages import Message, Step
from hotset.runtime.gpu import CudaDevice, Device, InlineDevice
from hotset.runtime.steering import Steering

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
BACKENDS = ["cpu", "inline", "interpreted", pytest.param("cuda", marks=pytest.mark.gpu)]
"""The CPU backend; the GPU's on CPU tensors, with the ops' references and with their kernels; the GPU's on a GPU."""


class Listener(Steering):
    """Hears everything."""

    def __init__(self) -> None:
        self.heard: list[Message] = []

    @property
    def attached(self) -> bool:
        return True

    @property
    def steps(self) -> list[Step]:
        return [message for message in self.heard if isinstance(message, Step)]

    def publish(self, message: Message) -> None:
        self.heard.append(message)


def backend_device(name: str) -> Device | str:
    """What PagedKV takes to run as the backend `name`; skips the test where it cannot."""
    if name == "cpu":
        return "cpu"
    if name == "cuda":
        if not torch.cuda.is_available():
            pytest.skip("needs a CUDA device")
        return CudaDevice()
    if name == "interpreted" and not INTERPRETED:
        pytest.skip("Triton compiles here, so it cannot interpret as well")
    return InlineDevice()


def placed(model: Any, name: str) -> dict[str, Any]:
    """What a Decoder of `model` takes beside its options to run on the backend `name`."""
    device = backend_device(name)
    if isinstance(device, str):
        return {"model": model, "tokenizer": None}
    return {"model": _on_gpu(model) if name == "cuda" else model, "tokenizer": None, "device": device}


@cache
def _on_gpu(model: Any) -> Any:
    return copy.deepcopy(model).to("cuda")
