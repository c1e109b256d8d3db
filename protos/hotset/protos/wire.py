"""Framing: messages to frames and back.

A message on the wire is `[topic, sequence number, header, array...]`:

- topic: the message's type in ASCII, so that a proxy can filter without reading further.
- sequence number: 8 bytes, big-endian; grows by one with every message of one direction of one connection,
  also with those that were dropped.
- header: a MessagePack map of the message's fields, `type` among them, and `arrays`: a list of
  `[name, dtype, shape]`, one for each array frame that follows, in their order.
- array: the raw little-endian, C-contiguous buffer.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import msgpack  # type: ignore[import-untyped]
import numpy as np
import numpy.typing as npt
from pydantic import ValidationError

from hotset.protos.arrays import MAX_ARRAY_BYTES
from hotset.protos.errors import ProtocolError
from hotset.protos.messages import MESSAGES, Message

Frame = bytes | bytearray | memoryview

MAX_HEADER_BYTES = 1 << 20
MAX_HEADER_DEPTH = 6
MAX_FRAMES = 3 + 16
MAX_DIMS = 4
MAX_MESSAGE_BYTES = 1 << 29
MAX_SEQUENCE_NUMBER = (1 << 64) - 1
MAX_REASON = 400
DTYPES = frozenset({"|i1", "|u1", "<i2", "<u2", "<i4", "<u4", "<i8", "<u8", "<f2", "<f4", "<f8"})


class UnknownTypeError(ProtocolError):
    """The message is well formed, but of a type that this version does not know.

    A server answers it with an `error` message of code `unknown_type` and keeps the peer.
    """

    def __init__(self, type_name: str) -> None:
        super().__init__(f"unknown message type {type_name[:64]!r}")
        self.type_name = type_name


def encode(message: Message, sequence_number: int) -> list[Frame]:
    """The frames of a message. Array frames are views of the message's arrays: do not write to them after.

    Raises ProtocolError if the sequence number or the size of the message is out of bounds.
    """
    if not 0 <= sequence_number <= MAX_SEQUENCE_NUMBER:
        raise ProtocolError(f"sequence number {sequence_number} does not fit 8 bytes")
    fields: dict[str, Any] = message.model_dump(exclude=set(message.arrays))
    arrays = [np.ascontiguousarray(getattr(message, name)) for name in message.arrays]
    fields["arrays"] = [
        [name, array.dtype.str, list(array.shape)] for name, array in zip(message.arrays, arrays, strict=True)
    ]
    header: bytes = msgpack.packb(fields)
    _check_sizes(len(header), sum(array.nbytes for array in arrays))
    topic = str(fields["type"]).encode("ascii")
    return [topic, sequence_number.to_bytes(8, "big"), header, *(_buffer(a) for a in arrays)]


def decode(frames: Sequence[Frame]) -> tuple[int, Message]:
    """Sequence number and message of a list of frames. Arrays are read-only views of the frames.

    (A frame whose buffer is not aligned for its dtype is copied: compiled code refuses unaligned arrays.)
    Raises UnknownTypeError if the type is not known, and ProtocolError for whatever else is wrong.
    """
    if not 3 <= len(frames) <= MAX_FRAMES:
        raise ProtocolError(f"{len(frames)} frames; a message has 3 to {MAX_FRAMES}")
    topic, number, packed, *buffers = (memoryview(frame).cast("B") for frame in frames)
    if len(number) != 8:
        raise ProtocolError(f"the sequence number has {len(number)} bytes instead of 8")
    _check_sizes(len(packed), sum(len(buffer) for buffer in buffers))
    header = _unpack(packed)
    cls = _message_class(header, bytes(topic[:256]))
    arrays = _arrays(cls, header.get("arrays"), buffers)
    # A field that is an array may come as a frame only, never in the header.
    fields = {name: value for name, value in header.items() if name not in cls.arrays} | arrays
    try:
        message = cls.model_validate(fields, strict=True)
    except ValidationError as error:
        raise ProtocolError(_explain(cls, error)) from None
    return int.from_bytes(number, "big"), message


def _check_sizes(header: int, arrays: int) -> None:
    if header > MAX_HEADER_BYTES:
        raise ProtocolError(f"a header of {header} bytes exceeds the limit of {MAX_HEADER_BYTES}")
    if arrays > MAX_MESSAGE_BYTES:
        raise ProtocolError(f"arrays of {arrays} bytes exceed the limit of {MAX_MESSAGE_BYTES}")


def _buffer(array: npt.NDArray[Any]) -> Frame:
    return array.data.cast("B") if array.size else b""


def _unpack(packed: memoryview) -> dict[str, Any]:
    try:
        header = msgpack.unpackb(packed, max_ext_len=0)
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        # msgpack has no common base: its own errors, bad UTF-8 and unhashable keys are among these.
        raise ProtocolError(f"the header is not MessagePack: {_clip(error)}") from None
    if not isinstance(header, dict) or not all(isinstance(key, str) for key in header):
        raise ProtocolError("the header must be a map with string keys")
    if _deeper_than(header, MAX_HEADER_DEPTH):
        raise ProtocolError(f"the header is nested deeper than {MAX_HEADER_DEPTH} levels")
    return header


def _deeper_than(value: dict[str, Any], levels: int) -> bool:
    layer: list[dict[str, Any] | list[Any]] = [value]
    for _ in range(levels):
        children = (item.values() if isinstance(item, dict) else item for item in layer)
        layer = [child for group in children for child in group if isinstance(child, dict | list)]
    return bool(layer)


def _message_class(header: dict[str, Any], topic: bytes) -> type[Message]:
    name = header.get("type")
    if not isinstance(name, str):
        raise ProtocolError("the header has no type")
    if name.encode("utf-8", "replace") != topic:
        raise ProtocolError(f"the topic {_clip(topic)} is not the type {_clip(name)}")
    if name not in MESSAGES:
        raise UnknownTypeError(name)
    return MESSAGES[name]


def _arrays(cls: type[Message], described: object, buffers: list[memoryview]) -> dict[str, Any]:
    """Views of the array frames that `cls` knows; the frames of unknown arrays are checked and skipped."""
    if not isinstance(described, list) or len(described) != len(buffers):
        raise ProtocolError(f"arrays must be a list that describes the {len(buffers)} array frames")
    found: dict[str, Any] = {}
    seen: set[str] = set()
    for item, buffer in zip(described, buffers, strict=True):
        name, dtype, shape = _description(item)
        if name in seen:
            raise ProtocolError(f"array {_clip(name)} stands twice in the message")
        seen.add(name)
        array = _view(name, dtype, shape, buffer)
        if name in cls.arrays:
            found[name] = array
    return found


def _description(item: object) -> tuple[str, str, list[int]]:
    if not isinstance(item, list) or len(item) != 3:
        raise ProtocolError("an array is described by [name, dtype, shape]")
    name, dtype, shape = item
    if not isinstance(name, str) or not isinstance(dtype, str) or dtype not in DTYPES:
        raise ProtocolError(f"array {_clip(name)} has no dtype out of {', '.join(sorted(DTYPES))}")
    if not isinstance(shape, list) or len(shape) > MAX_DIMS:
        raise ProtocolError(f"the shape of array {_clip(name)} must be a list of at most {MAX_DIMS} lengths")
    if not all(type(length) is int and 0 <= length <= MAX_ARRAY_BYTES for length in shape):
        raise ProtocolError(f"array {_clip(name)} has a length that is not in 0..{MAX_ARRAY_BYTES}")
    return name, dtype, shape


def _view(name: str, dtype: str, shape: list[int], buffer: memoryview) -> npt.NDArray[Any]:
    need = math.prod(shape) * np.dtype(dtype).itemsize
    if need > MAX_ARRAY_BYTES:
        raise ProtocolError(f"array {_clip(name)} exceeds the limit of {MAX_ARRAY_BYTES} bytes")
    if need != len(buffer):
        raise ProtocolError(f"array {_clip(name)} needs {need} bytes, its frame has {len(buffer)}")
    array = np.frombuffer(buffer, dtype).reshape(shape)
    if not array.flags.aligned:
        array = array.copy()
    array.flags.writeable = False
    return array


def _explain(cls: type[Message], error: ValidationError) -> str:
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    where = ".".join(str(part)[:64] for part in first["loc"][:6])
    kind = cls.model_fields["type"].default
    return _line(f"{kind}.{where}: {first['msg']}" if where else f"{kind}: {first['msg']}")


def _clip(value: object) -> str:
    return _line(repr(value))[:80]


def _line(text: str) -> str:
    printable = "".join(c if c.isprintable() else "?" for c in text)
    return printable if len(printable) <= MAX_REASON else printable[: MAX_REASON - 3] + "..."
