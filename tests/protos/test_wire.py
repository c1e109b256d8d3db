"""Round trips, bounds, and that decode raises nothing but ProtocolError whatever bytes arrive."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgpack  # type: ignore[import-untyped]
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hotset.protos.errors import ProtocolError
from hotset.protos.messages import (
    AnyMessage,
    Attach,
    Error,
    Geometry,
    Heartbeat,
    LayerFigure,
    Lookahead,
    Message,
    Model,
    Plan,
    SequenceClose,
    SnapshotRequest,
    Step,
    StepStats,
)
from hotset.protos.wire import (
    MAX_FRAMES,
    MAX_HEADER_BYTES,
    MAX_HEADER_DEPTH,
    UnknownTypeError,
    decode,
    encode,
)

GOLDEN = Path(__file__).parents[1] / "golden" / "protocol"
COUNTS = st.integers(0, (1 << 63) - 1)
NUMBERS = st.integers(0, (1 << 64) - 1)
TEXTS = st.text(max_size=60)


def vectors() -> list[list[bytes]]:
    found = []
    for path in sorted(GOLDEN.glob("*.bin")):
        data, frames = path.read_bytes(), []
        while data:
            size = int.from_bytes(data[:4], "big")
            frames.append(data[4 : 4 + size])
            data = data[4 + size :]
        found.append(frames)
    return found


VECTORS = vectors()


def frames_with(header: Any, *arrays: bytes, topic: bytes = b"heartbeat") -> list[bytes]:
    return [topic, bytes(8), msgpack.packb(header), *arrays]


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    pages, prefetch = draw(st.integers(0, 40)), draw(st.integers(0, 5))
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    return Plan(
        number=draw(COUNTS),
        epoch=draw(COUNTS),
        deadline=draw(COUNTS),
        source=draw(st.sampled_from(("heuristic", "learned"))),
        model_version=draw(TEXTS),
        pages=rng.integers(-9, 1 << 30, pages, dtype="<i4"),
        generations=rng.integers(0, 1 << 32, pages, dtype="<u4"),
        values=rng.normal(size=pages).astype("<f4"),
        prefetch=rng.integers(0, 1 << 30, prefetch, dtype="<i4"),
        prefetch_generations=rng.integers(0, 9, prefetch, dtype="<u4"),
    )


@st.composite
def steps(draw: st.DrawFn) -> Step:
    sequences = draw(st.lists(COUNTS, max_size=3, unique=True))
    rows, width, new = len(sequences) * 4, draw(st.integers(0, 9)), draw(st.integers(0, 3))
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    return Step(
        epoch=draw(COUNTS),
        sequences=sequences,
        stats=StepStats(step_us=draw(COUNTS), entries_rejected=draw(st.dictionaries(TEXTS, COUNTS, max_size=3))),
        lengths=rng.integers(0, 99, len(sequences), dtype="<i4"),
        sequence_steps=rng.integers(0, 99, len(sequences), dtype="<i4"),
        candidates=rng.integers(-1, 99, (rows, width), dtype="<i4"),
        scores=rng.integers(0, 256, (rows, width), dtype="|u1"),
        flags=rng.integers(0, 8, (rows, width), dtype="|u1"),
        new_sequence=rng.integers(0, 9, new, dtype="<i8"),
        new_group=rng.integers(0, 9, new, dtype="<i4"),
        new_generation=rng.integers(0, 9, new, dtype="<u4"),
        loaded=rng.integers(0, 9, new, dtype="<i4"),
        evicted=rng.integers(0, 9, 1, dtype="<i4"),
        lookahead_1=rng.integers(-1, 99, (rows, draw(st.integers(0, width))), dtype="<i4"),
        by_layer=rng.integers(0, 99, (draw(st.integers(0, 13)), 2), dtype="<i4"),
    )


SMALL = st.one_of(
    st.builds(SequenceClose, sequence=COUNTS, tokens=COUNTS, reason=TEXTS),
    st.builds(Error, code=TEXTS, reason=TEXTS),
    st.builds(Attach, peer=TEXTS, pid=st.integers(1, 1 << 30)),
    st.just(SnapshotRequest()),
)


@given(st.one_of(plans(), steps(), SMALL), NUMBERS)
def test_decode_undoes_encode(message: AnyMessage, number: int) -> None:
    got_number, got = decode(encode(message, number))
    assert got_number == number
    assert type(got) is type(message)
    plain = set(type(message).model_fields) - set(message.arrays)
    assert got.model_dump(include=plain) == message.model_dump(include=plain)
    for name in message.arrays:
        np.testing.assert_array_equal(getattr(got, name), getattr(message, name), strict=True)


@given(st.lists(st.binary(max_size=200), max_size=MAX_FRAMES + 2))
def test_random_frames_raise_only_protocol_errors(frames: list[bytes]) -> None:
    with pytest.raises(ProtocolError):
        decode(frames)


@given(st.sampled_from(VECTORS), st.data())
def test_mutated_messages_decode_or_raise_protocol_errors(frames: list[bytes], data: st.DataObject) -> None:
    mutant = [bytearray(frame) for frame in frames]
    for _ in range(data.draw(st.integers(1, 4))):
        frame = data.draw(st.sampled_from(mutant))
        kind = data.draw(st.sampled_from(("flip", "cut", "grow", "swap")))
        if kind == "flip" and frame:
            frame[data.draw(st.integers(0, len(frame) - 1))] = data.draw(st.integers(0, 255))
        elif kind == "cut":
            del frame[data.draw(st.integers(0, len(frame))) :]
        elif kind == "grow":
            frame.extend(data.draw(st.binary(max_size=9)))
        else:
            i, j = (data.draw(st.integers(0, len(mutant) - 1)) for _ in range(2))
            mutant[i], mutant[j] = mutant[j], mutant[i]
    decodes_or_refuses([bytes(frame) for frame in mutant])


@given(st.sampled_from(VECTORS), st.integers(0, 20))
def test_truncated_messages_raise_protocol_errors(frames: list[bytes], keep: int) -> None:
    for i, frame in enumerate(frames):
        if keep < len(frame):
            with pytest.raises(ProtocolError):
                decode([*frames[:i], frame[:keep], *frames[i + 1 :]])
    if keep < len(frames):
        with pytest.raises(ProtocolError):
            decode(frames[:keep])


JSON = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(-(1 << 63), (1 << 64) - 1), st.floats(), TEXTS, st.binary(max_size=9)
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(TEXTS, inner, max_size=4)),
    max_leaves=12,
)


@given(st.sampled_from(VECTORS), st.data())
def test_mistyped_fields_decode_or_raise_protocol_errors(frames: list[bytes], data: st.DataObject) -> None:
    header = msgpack.unpackb(frames[2])
    for name in data.draw(st.lists(st.sampled_from(sorted(header)), min_size=1, max_size=3)):
        header[name] = data.draw(JSON)
    decodes_or_refuses([frames[0], frames[1], msgpack.packb(header), *frames[3:]])


def decodes_or_refuses(frames: list[bytes]) -> None:
    try:
        _, message = decode(frames)
    except ProtocolError as error:
        text = str(error)
        assert text.isprintable()
        assert len(text) < 600
    else:
        # What decodes is a valid message: it can be sent on.
        encode(message, 0)


def test_unknown_header_keys_and_arrays_are_ignored() -> None:
    header = {"type": "heartbeat", "later": {"a": [1]}, "arrays": [["more", "<i4", [2]]]}
    assert decode(frames_with(header, bytes(8)))[1] == Heartbeat()


def test_unknown_type_is_told_apart() -> None:
    with pytest.raises(UnknownTypeError) as raised:
        decode(frames_with({"type": "novelty", "arrays": []}, topic=b"novelty"))
    assert raised.value.type_name == "novelty"


def nested(depth: int) -> Any:
    return [] if depth <= 1 else [nested(depth - 1)]


@pytest.mark.parametrize(
    ("frames", "says"),
    [
        ([b"heartbeat", bytes(8)], "2 frames"),
        ([b""] * (MAX_FRAMES + 1), f"{MAX_FRAMES + 1} frames"),
        ([b"heartbeat", bytes(7), b"\x80"], "7 bytes instead of 8"),
        ([b"heartbeat", bytes(8), bytes(MAX_HEADER_BYTES + 1)], "exceeds the limit"),
        ([b"heartbeat", bytes(8), b"\xc1"], "not MessagePack"),
        ([b"heartbeat", bytes(8), b"\x80\x80"], "not MessagePack"),
        ([b"heartbeat", bytes(8), b"\x93\x01\x02\x03"], "must be a map"),
        ([b"heartbeat", bytes(8), b"\x91" * 2000], "not MessagePack"),
        (frames_with({1: 2}), "not MessagePack"),
        (frames_with({"a": 2}), "no type"),
        (frames_with({"type": "detach"}), "is not the type"),
        (frames_with({"type": "heartbeat", "x": nested(MAX_HEADER_DEPTH)}), "nested deeper"),
        (frames_with({"type": "heartbeat"}), "arrays must be a list"),
        (frames_with({"type": "heartbeat", "arrays": []}, b""), "describes the 1 array frames"),
        (frames_with({"type": "heartbeat", "arrays": [["x", "<i4"]]}, b""), r"\[name, dtype, shape\]"),
        (frames_with({"type": "heartbeat", "arrays": [["x", "|O", [1]]]}, bytes(8)), "no dtype out of"),
        (frames_with({"type": "heartbeat", "arrays": [["x", ">i4", [1]]]}, bytes(4)), "no dtype out of"),
        (frames_with({"type": "heartbeat", "arrays": [["x", "<i4", [-1]]]}, b""), "length that is not in"),
        (frames_with({"type": "heartbeat", "arrays": [["x", "<i4", [True]]]}, bytes(4)), "length that is not in"),
        (frames_with({"type": "heartbeat", "arrays": [["x", "<i4", [1] * 5]]}, bytes(4)), "at most 4 lengths"),
        (frames_with({"type": "heartbeat", "arrays": [["x", "<i8", [1 << 28]]]}, b""), "exceeds the limit"),
        (frames_with({"type": "heartbeat", "arrays": [["x", "<i8", [1 << 27] * 4]]}, b""), "exceeds the limit"),
        (frames_with({"type": "heartbeat", "arrays": [["x", "<i4", [2]]]}, bytes(4)), "needs 8 bytes"),
        (frames_with({"type": "heartbeat", "arrays": [["x", "|u1", [0]]] * 2}, b"", b""), "stands twice"),
    ],
)  # fmt: skip
def test_every_bound_has_its_message(frames: list[bytes], says: str) -> None:
    with pytest.raises(ProtocolError, match=says):
        decode(frames)


def test_nesting_up_to_the_limit_is_accepted() -> None:
    header = {"type": "heartbeat", "x": nested(MAX_HEADER_DEPTH - 1), "arrays": []}
    assert decode(frames_with(header))[1] == Heartbeat()


@pytest.mark.parametrize("value", ["4711", 4711.0, True, None, 0, 1 << 31])
def test_scalars_are_not_converted(value: object) -> None:
    header = {"type": "attach", "peer": "x", "pid": value, "arrays": []}
    with pytest.raises(ProtocolError, match=r"attach\.pid"):
        decode(frames_with(header, topic=b"attach"))


def test_an_array_may_not_come_in_the_header() -> None:
    header = {"type": "model", "number": 1, "version": "", "sha256": "0" * 64, "forest": [1, 2], "arrays": []}
    with pytest.raises(ProtocolError, match=r"model.forest|model: forest"):
        decode(frames_with(header, topic=b"model"))


def test_decoded_arrays_are_read_only_views() -> None:
    model = Model(number=1, version="", sha256="0" * 64, forest=np.arange(1000, dtype="|u1"))
    frames = encode(model, 1)
    _, decoded = decode(frames)
    assert isinstance(decoded, Model)
    assert np.shares_memory(decoded.forest, model.forest)
    with pytest.raises(ValueError, match="read-only"):
        decoded.forest[0] = 9


def test_unaligned_frames_are_copied_into_aligned_arrays() -> None:
    plan = Plan(
        number=1, epoch=1, deadline=2, source="heuristic",
        pages=np.arange(5, dtype="<i4"), generations=np.arange(5, dtype="<u4"), values=np.zeros(5, "<f4"),
        prefetch=np.zeros(0, "<i4"), prefetch_generations=np.zeros(0, "<u4"),
    )  # fmt: skip
    shifted = [memoryview(b"\0" + bytes(frame))[1:] for frame in encode(plan, 1)]
    _, decoded = decode(shifted)
    assert isinstance(decoded, Plan)
    assert decoded.pages.flags.aligned
    np.testing.assert_array_equal(decoded.pages, plan.pages)


def lanes_step(rows: int, width: int, **more: npt.NDArray[Any]) -> Step:
    none = {name: np.zeros(0, "<i4") for name in ("lengths", "sequence_steps", "new_group", "loaded", "evicted")}
    return Step(
        epoch=1, sequences=[], candidates=np.zeros((rows, width), "<i4"), scores=np.zeros((rows, width), "|u1"),
        flags=np.zeros((rows, width), "|u1"), new_sequence=np.zeros(0, "<i8"), new_generation=np.zeros(0, "<u4"),
        **none, **more,
    )  # fmt: skip


def test_a_step_of_an_older_peer_has_no_lookahead() -> None:
    topic, number, header, *arrays = encode(lanes_step(2, 4), 1)
    fields = msgpack.unpackb(header)
    old = [i for i, (name, _, _) in enumerate(fields["arrays"]) if not name.startswith(("lookahead", "by_layer"))]
    fields["arrays"] = [fields["arrays"][i] for i in old]
    _, step = decode([topic, number, msgpack.packb(fields), *(arrays[i] for i in old)])
    assert isinstance(step, Step)
    assert step.lookahead == {}
    assert step.layer_figure(LayerFigure.DEMAND_PAGES) is None


def test_an_array_with_a_default_may_not_come_in_the_header() -> None:
    topic, number, header, *arrays = encode(lanes_step(2, 4), 1)
    fields = msgpack.unpackb(header) | {"by_layer": [[1]]}
    _, step = decode([topic, number, msgpack.packb(fields), *arrays])
    assert isinstance(step, Step)
    assert step.by_layer.size == 0


def test_ranks_are_those_of_the_steps_lanes() -> None:
    step = lanes_step(2, 4, lookahead_2=np.full((2, 3), -1, "<i4"), by_layer=np.arange(6, dtype="<i4").reshape(2, 3))
    assert list(step.lookahead) == [2]
    figure = step.layer_figure(LayerFigure.PLAN_PAGES)
    assert figure is not None
    assert figure.tolist() == [3, 4, 5]
    assert step.layer_figure(LayerFigure.LEAST) is None
    for shape in ((1, 3), (2, 5)):
        with pytest.raises(ValueError, match="lookahead_1"):
            lanes_step(2, 4, lookahead_1=np.zeros(shape, "<i4"))


@pytest.mark.parametrize("wrong", [{"distance": 3}, {"distance": -2}, {"least": 1.1}, {"least": -0.1}, {"pages": -2}])
def test_a_lookahead_is_bounded(wrong: dict[str, float]) -> None:
    values = {"distance": -1.0, "least": np.nan, "pages": -1.0} | wrong
    dtypes = {"distance": "|i1", "least": "<f4", "pages": "<i4"}
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Lookahead(number=1, **{name: np.array([values[name]], dtype) for name, dtype in dtypes.items()})


@pytest.mark.parametrize("number", [-1, 1 << 64])
def test_encode_refuses_a_sequence_number_that_does_not_fit(number: int) -> None:
    with pytest.raises(ProtocolError, match="does not fit"):
        encode(Heartbeat(), number)


def test_the_widest_step_header_fits() -> None:
    widest: Message = Step(
        epoch=1, sequences=[(1 << 63) - 1 - i for i in range(1 << 16)],
        stats=StepStats(entries_rejected={f"{i:0250d}": (1 << 63) - 1 for i in range(256)}),
        lengths=np.zeros(1 << 16, "<i4"), sequence_steps=np.zeros(1 << 16, "<i4"),
        candidates=np.zeros((0, 0), "<i4"), scores=np.zeros((0, 0), "|u1"), flags=np.zeros((0, 0), "|u1"),
        new_sequence=np.zeros(0, "<i8"), new_group=np.zeros(0, "<i4"), new_generation=np.zeros(0, "<u4"),
        loaded=np.zeros(0, "<i4"), evicted=np.zeros(0, "<i4"),
    )  # fmt: skip
    frames = encode(widest, 1)
    assert len(frames[2]) < MAX_HEADER_BYTES
    assert decode(frames)[0] == 1


@pytest.mark.parametrize("values", [[np.nan], [np.inf], [-np.inf]])
def test_a_plan_must_hold_finite_values(values: list[float]) -> None:
    with pytest.raises(ValueError, match="finite"):
        Plan(
            number=1, epoch=1, deadline=2, source="heuristic",
            pages=np.zeros(1, "<i4"), generations=np.zeros(1, "<u4"), values=np.array(values, "<f4"),
            prefetch=np.zeros(0, "<i4"), prefetch_generations=np.zeros(0, "<u4"),
        )  # fmt: skip


def test_a_geometry_must_fit_physical_page_numbers() -> None:
    with pytest.raises(ValueError, match="physical pages"):
        Geometry(layers=4096, kv_heads=4096, page_size=1, selected=1, candidates=1, page_bytes=1, slots=1, groups=128)
