"""What decides inside the step in the arms that look ahead: trained heads, or random ones of the usual size."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from hotset.kernels.forest.bench import random_forest
from hotset.predictor.model import ReuseModel
from hotset.protos.device_features import DEVICE_FEATURES, DEVICE_FEATURES_HASH, PAGE_FEATURES, PAGE_FEATURES_HASH
from hotset.protos.device_model import DeviceModel
from hotset.protos.errors import ConfigError
from hotset.protos.forest import IDENTITY, sha256
from hotset.protos.messages import Lookahead as Steer
from hotset.protos.messages import Model
from hotset.runtime.decoder import Decoder
from hotset.runtime.lookahead import Lookahead

_TREES, _LEAVES = 32, 31
_FOR_GOOD = 1_000_000


def load_heads(folder: Path) -> Model:
    """What a daemon would push of a trained model. Raises ConfigError if its log had no ranks."""
    model = ReuseModel.load(folder)
    if model.device is None:
        raise ConfigError(f"the model in {folder} was trained on a log without ranks and decides nothing inside a step")
    return _message(model.device.model, model.card.version)


def random_heads() -> Model:
    """Heads of the usual size that know nothing: they cost what trained ones cost."""
    value = random_forest(_TREES, _LEAVES, columns=len(PAGE_FEATURES), link=IDENTITY)
    use = random_forest(_TREES, _LEAVES, columns=len(DEVICE_FEATURES))
    return _message(
        DeviceModel(replace(value, features_hash=PAGE_FEATURES_HASH), replace(use, features_hash=DEVICE_FEATURES_HASH)),
        "random",
    )


def given_heads(ahead: Lookahead, heads: Model | None) -> None:
    """Have `ahead` decide by `heads`, or by random ones. Raises ConfigError if they are refused."""
    if reason := ahead.take_model(heads or random_heads()):
        raise ConfigError(f"the model cannot decide inside the step: {reason}")


def hold(decoder: Decoder) -> None:
    """Let no prefetch through from now on; everything up to the decision goes on."""
    layers = decoder.kv.shape.layers
    assert decoder.ahead is not None
    steer = Steer(
        number=1, steps=_FOR_GOOD, distance=np.full(layers, -1, "|i1"), least=np.full(layers, np.nan, "<f4"),
        pages=np.zeros(layers, "<i4"),
    )  # fmt: skip
    if reason := decoder.ahead.follow(steer, decoder.epoch):
        raise ConfigError(f"the lookahead is not steered: {reason}")


def _message(model: DeviceModel, version: str) -> Model:
    data = model.to_bytes()
    return Model(number=1, version=version, sha256=sha256(data), forest=np.frombuffer(data, "|u1"))
