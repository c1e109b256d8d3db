"""A regression forest as flat arrays and as bytes: what a `model` message carries to the device.

Layout of the bytes, little-endian: the header `HEADER` (64 bytes), then the arrays of `ARRAYS` in order, each
padded to 8 bytes. Nodes of all trees stand in one list; a child is a node number, or ~leaf if negative, and
a child node always stands after its parent, so that every walk ends.

A value of magnitude ZERO or less counts as 0. A value x goes left at a node if x <= threshold. NaN goes left if
NAN_LEFT is set; where ZERO_IS_MISSING is set, 0 goes where NaN goes. The prediction is
`link(scale * sum of one leaf a tree)`.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from hotset.protos.errors import ModelError

MAGIC = b"HSFOREST"
FORMAT_VERSION = 1
HEADER = struct.Struct("<8sIIIIIId24s")
"""magic, version, trees, nodes, leaves, features, link, scale, first 24 bytes of FEATURES_HASH"""
NAN_LEFT, ZERO_IS_MISSING = 1, 2
ZERO = 1.0000000180025095e-35
"""LightGBM's kZeroThreshold, 1e-35 as float32"""
IDENTITY, SIGMOID, EXP = range(3)
MAX_NODES = 1 << 22
ARRAYS: dict[str, str] = {
    "roots": "<i4",
    "feature": "<i4",
    "threshold": "<f4",
    "flags": "|u1",
    "left": "<i4",
    "right": "<i4",
    "leaf": "<f8",
}


@dataclass(frozen=True)
class FlatForest:
    """T trees, N nodes, M leaves. Raises ModelError on construction unless every index is in bounds."""

    features: int
    """columns of a row"""
    features_hash: str
    """hex; empty if the forest is for other features than ours"""
    link: int
    scale: float
    roots: npt.NDArray[np.int32]
    """[T]"""
    feature: npt.NDArray[np.int32]
    """[N]"""
    threshold: npt.NDArray[np.float32]
    """[N]"""
    flags: npt.NDArray[np.uint8]
    """[N]"""
    left: npt.NDArray[np.int32]
    """[N]"""
    right: npt.NDArray[np.int32]
    """[N]"""
    leaf: npt.NDArray[np.float64]
    """[M]"""

    def __post_init__(self) -> None:
        nodes, leaves = len(self.feature), len(self.leaf)
        if not len(self.roots) or nodes > MAX_NODES or leaves > MAX_NODES or self.features < 1:
            raise ModelError(f"a forest of {len(self.roots)} trees, {nodes} nodes, {self.features} features")
        if self.link not in (IDENTITY, SIGMOID, EXP) or not np.isfinite(self.scale):
            raise ModelError(f"forest: unknown link {self.link} or scale {self.scale}")
        for name, dtype in ARRAYS.items():
            array = getattr(self, name)
            if array.dtype != np.dtype(dtype) or array.ndim != 1:
                raise ModelError(f"forest: {name} must be a list of {dtype}")
        if not len(self.threshold) == len(self.flags) == len(self.left) == len(self.right) == nodes:
            raise ModelError("forest: node arrays differ in length")
        own = np.arange(nodes)
        for child in (self.left, self.right):
            _check(bool(((child < nodes) & (child >= -leaves) & ((child < 0) | (child > own))).all()), "a child")
        _check(bool(((self.roots < nodes) & (self.roots >= -leaves)).all()), "a root")
        _check(bool(((self.feature >= 0) & (self.feature < self.features)).all()), "a feature")
        _check(not bool(np.isnan(self.threshold).any()) and bool(np.isfinite(self.leaf).all()), "a threshold or leaf")

    def to_bytes(self) -> bytes:
        """The bytes described above."""
        counts = (len(self.roots), len(self.feature), len(self.leaf), self.features, self.link)
        digest = bytes.fromhex(self.features_hash)[:24]
        parts = [HEADER.pack(MAGIC, FORMAT_VERSION, *counts, self.scale, digest)]
        for name in ARRAYS:
            data = getattr(self, name).tobytes()
            parts.append(data + b"\0" * (-len(data) % 8))
        return b"".join(parts)

    @classmethod
    def from_bytes(cls, data: bytes | memoryview) -> FlatForest:
        """Inverse of `to_bytes`. Raises ModelError for whatever is not such a forest."""
        if len(data) < HEADER.size:
            raise ModelError(f"forest: {len(data)} bytes are too few for a header")
        magic, version, trees, nodes, leaves, features, link, scale, digest = HEADER.unpack_from(data)
        if magic != MAGIC or version != FORMAT_VERSION:
            raise ModelError("forest: not the bytes of a forest, or of another version")
        lengths = dict.fromkeys(ARRAYS, nodes) | {"roots": trees, "leaf": leaves}
        need = HEADER.size + sum(_padded(lengths[name] * np.dtype(dtype).itemsize) for name, dtype in ARRAYS.items())
        if len(data) != need:
            raise ModelError(f"forest: {len(data)} bytes, the header announces {need}")
        arrays: dict[str, Any] = {}
        at = HEADER.size
        for name, dtype in ARRAYS.items():
            arrays[name] = np.frombuffer(data, dtype, lengths[name], at)
            at += _padded(arrays[name].nbytes)
        return cls(features, digest.hex() if any(digest) else "", link, scale, **arrays)

    def matches(self, features_hash: str) -> bool:
        """Whether the forest was made for the features with that hash (the bytes keep 24 bytes of it)."""
        return bool(self.features_hash) and features_hash.startswith(self.features_hash[:48])


def sha256(data: bytes | memoryview) -> str:
    """What `Model.sha256` must be for these bytes."""
    return hashlib.sha256(data).hexdigest()


def _padded(size: int) -> int:
    return size + -size % 8


def _check(good: bool, what: str) -> None:
    if not good:
        raise ModelError(f"forest: {what} is out of bounds")
