"""The device's two forests as bytes: what a `model` message carries for scoring inside the step.

Layout, little-endian: the header `HEADER` (16 bytes), then the bytes of both forests (`hotset.protos.forest`), which
end at multiples of 8. The first tells log2 of the steps to a page's next use, from PAGE_FEATURES; the second the
probability that a page is used at this step, from DEVICE_FEATURES.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from hotset.protos.device_features import DEVICE_FEATURES, DEVICE_FEATURES_HASH, PAGE_FEATURES, PAGE_FEATURES_HASH
from hotset.protos.errors import ModelError
from hotset.protos.forest import IDENTITY, SIGMOID, FlatForest

HEADER = struct.Struct("<8sII")
"""magic, bytes of the first forest, bytes of the second"""
MAGIC = b"HSDEVICE"


class DeviceModel(NamedTuple):
    """Both heads."""

    value: FlatForest
    use: FlatForest

    def to_bytes(self) -> bytes:
        """The bytes described above."""
        value, use = self.value.to_bytes(), self.use.to_bytes()
        return HEADER.pack(MAGIC, len(value), len(use)) + value + use

    @classmethod
    def from_bytes(cls, data: bytes | memoryview) -> DeviceModel:
        """Inverse of `to_bytes`. Raises ModelError for whatever is no such model, or is for other features."""
        return cls.parse(data).checked()

    @classmethod
    def parse(cls, data: bytes | memoryview) -> DeviceModel:
        """Two well-formed forests, for whatever features. Raises ModelError for what is not."""
        if len(data) < HEADER.size:
            raise ModelError(f"device model: {len(data)} bytes are too few for a header")
        magic, value, use = HEADER.unpack_from(data)
        if magic != MAGIC or len(data) != HEADER.size + value + use:
            raise ModelError("device model: not the bytes of one, or cut short")
        parts = memoryview(data)[HEADER.size :]
        return cls(FlatForest.from_bytes(parts[:value]), FlatForest.from_bytes(parts[value:]))

    def checked(self) -> DeviceModel:
        """Itself. Raises ModelError unless both heads are for this version's columns, and of the right kind."""
        _check("next use", self.value, len(PAGE_FEATURES), PAGE_FEATURES_HASH, IDENTITY)
        _check("use", self.use, len(DEVICE_FEATURES), DEVICE_FEATURES_HASH, SIGMOID)
        return self


def _check(head: str, forest: FlatForest, columns: int, features_hash: str, link: int) -> None:
    if forest.features != columns or not forest.matches(features_hash):
        raise ModelError(f"device model: the head of {head} was trained for other features than this version keeps")
    if forest.link != link:
        raise ModelError(f"device model: the head of {head} has link {forest.link}, it must be {link}")
