"""docs/protocol.md names every message, field, array and limit, as the code has them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from hotset.protos import arrays, wire
from hotset.protos.discovery import RuntimeFile
from hotset.protos.messages import MESSAGES, PROTOCOL_VERSION, Capacity, Geometry, InStep, LayerFigure, StepStats

PAGE = (Path(__file__).parents[2] / "docs" / "protocol.md").read_text()
SECTIONS = dict(re.findall(r"^### (\w+)\n(.*?)(?=^##|\Z)", PAGE, re.MULTILINE | re.DOTALL))


def test_every_message_has_a_section_and_nothing_else_has() -> None:
    assert set(SECTIONS) == set(MESSAGES)


@pytest.mark.parametrize("kind", sorted(MESSAGES))
def test_a_section_names_exactly_the_fields(kind: str) -> None:
    rows = re.findall(r"^\| `(\w+)` \|", SECTIONS[kind], re.MULTILINE)
    assert set(rows or ["type"]) == set(MESSAGES[kind].model_fields)


@pytest.mark.parametrize("kind", sorted(MESSAGES))
def test_a_section_gives_dtype_and_dimensions_of_arrays(kind: str) -> None:
    section = SECTIONS[kind].replace("\\|", "|")
    for name, spec in MESSAGES[kind].arrays.items():
        assert f"| `{name}` | `{spec.dtype}` [{', '.join(spec.dims)}] |" in section


@pytest.mark.parametrize("kind", sorted(MESSAGES))
def test_a_section_says_which_fields_may_be_missing(kind: str) -> None:
    for name, field in MESSAGES[kind].model_fields.items():
        row = re.search(rf"^\| `{name}` \|.*$", SECTIONS[kind], re.MULTILINE)
        if row is not None and name != "type":
            assert ("default" in row.group()) == (not field.is_required()), name


@pytest.mark.parametrize("model", [Capacity, Geometry, InStep, StepStats, RuntimeFile])
def test_nested_maps_and_the_discovery_file_are_complete(
    model: type[Capacity | Geometry | InStep | StepStats | RuntimeFile],
) -> None:
    for name in model.model_fields:
        assert f"`{name}`" in PAGE


def test_every_figure_of_a_layer_has_its_row() -> None:
    rows = re.findall(r"^\| (\d+) \| `(\w+)` \|", SECTIONS["step"], re.MULTILINE)
    assert [(int(number), name.upper()) for number, name in rows] == [(f.value, f.name) for f in LayerFigure]


def test_limits_are_the_ones_in_the_code() -> None:
    assert f"Version of the protocol: {PROTOCOL_VERSION}." in PAGE
    assert f"| frames of a message | 3 to {wire.MAX_FRAMES} |" in PAGE
    assert f"| header | {wire.MAX_HEADER_BYTES >> 20} MiB, nested at most {wire.MAX_HEADER_DEPTH} deep" in PAGE
    assert f"| one array | {arrays.MAX_ARRAY_BYTES >> 20} MiB, at most {wire.MAX_DIMS} dimensions |" in PAGE
    assert f"| all arrays of a message | {wire.MAX_MESSAGE_BYTES >> 20} MiB |" in PAGE
    listed = re.search(r"`dtype` is one of `([^`]+)`", PAGE)
    assert listed is not None
    assert set(listed.group(1).split()) == wire.DTYPES
