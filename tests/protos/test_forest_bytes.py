"""The bytes of a forest: whatever comes in, either a sound forest or a ModelError."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hotset.protos.errors import ModelError
from hotset.protos.features import FEATURES_HASH
from hotset.protos.forest import HEADER, NAN_LEFT, SIGMOID, FlatForest, sha256

# One tree: x0 <= 1.5 ? leaf 0 : (x1 <= -2 ? leaf 1 : leaf 2); and one that is a leaf only.
FOREST = FlatForest(
    features=2,
    features_hash=FEATURES_HASH,
    link=SIGMOID,
    scale=0.5,
    roots=np.array([0, ~3], np.int32),
    feature=np.array([0, 1], np.int32),
    threshold=np.array([1.5, -2.0], np.float32),
    flags=np.array([NAN_LEFT, 0], np.uint8),
    left=np.array([~0, ~1], np.int32),
    right=np.array([1, ~2], np.int32),
    leaf=np.array([0.25, -1.0, 3.0, 0.5]),
)


def test_round_trip_keeps_everything() -> None:
    again = FlatForest.from_bytes(FOREST.to_bytes())
    assert again.to_bytes() == FOREST.to_bytes()
    assert (again.link, again.scale, again.features) == (SIGMOID, 0.5, 2)
    assert again.matches(FEATURES_HASH)
    assert not again.matches("0" * 64)


def test_bytes_are_fixed() -> None:
    """A change of the layout must change FORMAT_VERSION (the hash of the features is cut out: it may change)."""
    data = replace(FOREST, features_hash="").to_bytes()
    assert sha256(data) == "f19dbc157b77a3591887cc602e874753fdc5c26021272a85a98b422757cfaeea"


@given(st.integers(0, len(FOREST.to_bytes()) - 1), st.integers(1, 255))
def test_damaged_bytes(position: int, flip: int) -> None:
    data = bytearray(FOREST.to_bytes())
    data[position] ^= flip
    with contextlib.suppress(ModelError):
        FlatForest.from_bytes(bytes(data))


@given(st.integers(0, len(FOREST.to_bytes()) - 1))
def test_truncated_bytes(length: int) -> None:
    with pytest.raises(ModelError):
        FlatForest.from_bytes(FOREST.to_bytes()[:length])


@given(st.binary(max_size=4 * HEADER.size))
def test_random_bytes(data: bytes) -> None:
    with pytest.raises(ModelError):
        FlatForest.from_bytes(data)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("left", [0, ~1]),
        ("left", [2, ~1]),
        ("right", [1, ~4]),
        ("right", [1, 0]),
        ("roots", [2, ~3]),
        ("roots", []),
        ("feature", [0, 2]),
        ("feature", [-1, 1]),
        ("threshold", [np.nan, 0.0]),
        ("leaf", [np.inf, 0.0, 0.0, 0.0]),
        ("flags", [0]),
    ],
)
def test_unsound_forests_are_refused(name: str, values: list[Any]) -> None:
    changed: dict[str, Any] = {name: np.array(values, getattr(FOREST, name).dtype)}
    with pytest.raises(ModelError):
        replace(FOREST, **changed)
