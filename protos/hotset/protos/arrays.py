"""Typed array fields of messages: dtype and named dimensions, checked wherever a message is made."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt

MAX_ARRAY_BYTES = 1 << 28


@dataclass(frozen=True)
class ArraySpec:
    """What an array field must be: little-endian `dtype` and one name a dimension.

    Dimensions of one message that bear the same name must have the same length.
    """

    dtype: str
    dims: tuple[str, ...]

    def check(self, name: str, array: object, bound: dict[str, int]) -> None:
        """Raise ValueError unless `array` fits; `bound` collects the lengths of named dimensions."""
        if not isinstance(array, np.ndarray):
            raise ValueError(f"{name}: expected an array, got {type(array).__name__}")
        if array.dtype != np.dtype(self.dtype):
            raise ValueError(f"{name}: expected dtype {self.dtype}, got {array.dtype}")
        if array.ndim != len(self.dims):
            raise ValueError(f"{name}: expected dimensions {self.dims}, got shape {array.shape}")
        if array.nbytes > MAX_ARRAY_BYTES:
            raise ValueError(f"{name}: {array.nbytes} bytes exceed the limit of {MAX_ARRAY_BYTES}")
        for dim, length in zip(self.dims, array.shape, strict=True):
            if bound.setdefault(dim, length) != length:
                raise ValueError(f"{name}: dimension {dim} is {length}, elsewhere {bound[dim]}")


_Array = npt.NDArray[Any]
Rows2Int32 = Annotated[_Array, ArraySpec("<i4", ("rows", "candidates"))]
Rows2UInt8 = Annotated[_Array, ArraySpec("|u1", ("rows", "candidates"))]


def array_specs(model: type[Any]) -> dict[str, ArraySpec]:
    """The array fields of a message class, in declaration order."""
    found: dict[str, ArraySpec] = {}
    for name, info in model.model_fields.items():
        for extra in info.metadata:
            if isinstance(extra, ArraySpec):
                found[name] = extra
    return found
