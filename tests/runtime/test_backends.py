"""Which backend a device gets, and what is said of one that cannot be had."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from backend_kit import placed

from hotset.protos.errors import ConfigError
from hotset.runtime.backends import check_device, device_for
from hotset.runtime.config import RuntimeConfig
from hotset.runtime.decoder import Decoder
from hotset.runtime.gpu.residency import DeviceResidency
from hotset.runtime.gpu.steps import DeviceSteps
from hotset.runtime.steps import HostSteps

OPTIONS = {"page_size": 4, "selected": 4, "recent": 1, "max_tokens": 64, "max_sequences": 1, "hbm_fraction": 1.0}


def test_devices_that_do_not_exist_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    check_device("cpu")
    with pytest.raises(ConfigError, match="no device is called 'gpu'"):
        check_device("gpu")
    with pytest.raises(ConfigError, match="no CUDA device"):
        check_device("cuda")
    with pytest.raises(ConfigError, match="cannot decode on 'meta'"):
        check_device("meta")
    assert device_for(torch.device("cpu")) is None


def test_the_device_picks_the_backend(model: Any) -> None:
    for backend, kind in (("cpu", HostSteps), ("inline", DeviceSteps)):
        decoder = Decoder(**placed(model, backend), config=RuntimeConfig.checked(**OPTIONS))
        assert isinstance(decoder.steps, kind)
        assert isinstance(decoder.kv.manager, DeviceResidency) == (backend == "inline")
        decoder.close()


@pytest.mark.parametrize(
    ("backend", "options", "words"),
    [
        ("cpu", {"tiered": False}, "always tiered"),
        ("inline", {"link_gbps": 1.0}, "--link-gbps"),
        ("inline", {"lookahead": 1, "tiered": False}, "--lookahead off"),
    ],
)
def test_what_a_backend_cannot_do_is_said(model: Any, backend: str, options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        Decoder(**placed(model, backend), config=RuntimeConfig.checked(**{**OPTIONS, **options}))
