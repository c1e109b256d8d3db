"""The bytes of the device's two heads: sound ones for this version's columns, or a ModelError."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from hotset.protos.device_features import DEVICE_FEATURES, DEVICE_FEATURES_HASH, PAGE_FEATURES, PAGE_FEATURES_HASH
from hotset.protos.device_model import HEADER, DeviceModel
from hotset.protos.errors import ModelError
from hotset.protos.forest import IDENTITY, SIGMOID, FlatForest


def stump(columns: int, features_hash: str, link: int) -> FlatForest:
    return FlatForest(
        features=columns, features_hash=features_hash, link=link, scale=1.0,
        roots=np.array([0], np.int32), feature=np.array([columns - 1], np.int32),
        threshold=np.array([0.5], np.float32), flags=np.array([0], np.uint8),
        left=np.array([~0], np.int32), right=np.array([~1], np.int32), leaf=np.array([1.0, 2.0]),
    )  # fmt: skip


VALUE = stump(len(PAGE_FEATURES), PAGE_FEATURES_HASH, IDENTITY)
USE = stump(len(DEVICE_FEATURES), DEVICE_FEATURES_HASH, SIGMOID)
BYTES = DeviceModel(VALUE, USE).to_bytes()


def test_round_trip() -> None:
    again = DeviceModel.from_bytes(BYTES)
    assert again.to_bytes() == BYTES
    assert again.use.feature[0] == len(DEVICE_FEATURES) - 1


@pytest.mark.parametrize("cut", [0, 7, HEADER.size, HEADER.size + 10, len(BYTES) - 1])
def test_cut_short(cut: int) -> None:
    with pytest.raises(ModelError):
        DeviceModel.from_bytes(BYTES[:cut])


def test_every_damaged_header_is_refused() -> None:
    for at in range(HEADER.size):
        damaged = bytearray(BYTES)
        damaged[at] ^= 0x5A
        with pytest.raises(ModelError):
            DeviceModel.from_bytes(bytes(damaged))


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (DeviceModel(USE, USE), "next use was trained for other features"),
        (DeviceModel(VALUE, replace(USE, features_hash="0" * 64)), "use was trained for other features"),
        (DeviceModel(VALUE, replace(USE, features_hash="")), "use was trained for other features"),
        (DeviceModel(VALUE, replace(USE, link=IDENTITY)), "link"),
    ],
)
def test_foreign_heads_are_refused(model: DeviceModel, reason: str) -> None:
    with pytest.raises(ModelError, match=reason):
        DeviceModel.from_bytes(model.to_bytes())
