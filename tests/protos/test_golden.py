"""The committed byte vectors: what another implementation is tested with must stay what we speak."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hotset.protos.messages import MESSAGES, Message
from hotset.protos.wire import decode, encode

GOLDEN = Path(__file__).parents[1] / "golden" / "protocol"


def read_frames(path: Path) -> list[bytes]:
    data, frames = path.read_bytes(), []
    while data:
        size = int.from_bytes(data[:4], "big")
        frames.append(data[4 : 4 + size])
        assert len(frames[-1]) == size
        data = data[4 + size :]
    return frames


def read_message(kind: str) -> tuple[int, Message]:
    golden: dict[str, Any] = json.loads((GOLDEN / f"{kind}.json").read_text())
    arrays = {a["name"]: np.array(a["items"], a["dtype"]).reshape(a["shape"]) for a in golden["arrays"]}
    return golden["sequence_number"], MESSAGES[kind].model_validate(golden["fields"] | arrays)


def assert_same(left: Message, right: Message) -> None:
    assert type(left) is type(right)
    for name in type(left).model_fields:
        if name in left.arrays:
            np.testing.assert_array_equal(getattr(left, name), getattr(right, name), strict=True)
        else:
            assert getattr(left, name) == getattr(right, name), name


def test_every_message_has_a_vector() -> None:
    assert {path.stem for path in GOLDEN.glob("*.bin")} == set(MESSAGES)
    assert {path.stem for path in GOLDEN.glob("*.json")} == set(MESSAGES)


@pytest.mark.parametrize("kind", sorted(MESSAGES))
def test_vector_decodes_to_its_json(kind: str) -> None:
    number, message = decode(read_frames(GOLDEN / f"{kind}.bin"))
    expected_number, expected = read_message(kind)
    assert number == expected_number
    assert_same(message, expected)


@pytest.mark.parametrize("kind", sorted(MESSAGES))
def test_json_encodes_to_its_vector(kind: str) -> None:
    number, message = read_message(kind)
    assert [bytes(frame) for frame in encode(message, number)] == read_frames(GOLDEN / f"{kind}.bin")


@pytest.mark.parametrize("kind", sorted(MESSAGES))
def test_json_states_every_field(kind: str) -> None:
    # A field that the vector leaves to its default would not be pinned down by it.
    golden = json.loads((GOLDEN / f"{kind}.json").read_text())
    named = set(golden["fields"]) | {array["name"] for array in golden["arrays"]}
    assert named == set(MESSAGES[kind].model_fields)
