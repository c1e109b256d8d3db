"""Bit tricks that numba has no name for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numba import njit, types
from numba.extending import intrinsic

if TYPE_CHECKING:

    def _trailing_zeros(word: np.uint64) -> np.uint64: ...

else:

    @intrinsic
    def _trailing_zeros(context: Any, word: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return builder.cttz(args[0], context.get_constant(types.boolean, 1))

        return types.uint64(types.uint64), generate


@njit(cache=True, inline="always")
def lowest_bit(word: np.uint64) -> int:
    """Place of the lowest set bit; undefined for 0."""
    return np.int64(_trailing_zeros(word))  # type: ignore[return-value]
