"""Bit tricks and hints that numba has no name for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

if TYPE_CHECKING:

    def _trailing_zeros(word: np.uint64) -> np.uint64: ...
    def prefetch(array: Any, index: int) -> None: ...

else:

    @intrinsic
    def _trailing_zeros(context: Any, word: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return builder.cttz(args[0], context.get_constant(types.boolean, 1))

        return types.uint64(types.uint64), generate

    @intrinsic
    def prefetch(context: Any, array: Any, index: Any) -> Any:
        """Ask the cache for item `index` of a C-contiguous array of one dimension; no item need be there."""

        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            held = context.make_array(signature.args[0])(context, builder, args[0])
            byte = builder.bitcast(builder.gep(held.data, [args[1]]), ir.IntType(8).as_pointer())
            kind = ir.FunctionType(ir.VoidType(), [byte.type, *[ir.IntType(32)] * 3])
            hint = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0i8")
            # Read, to be kept in all levels, data.
            builder.call(hint, [byte, *(ir.Constant(ir.IntType(32), flag) for flag in (0, 3, 1))])
            return context.get_dummy_value()

        return types.void(array, types.int64), generate


@njit(cache=True, nogil=True, inline="always")
def lowest_bit(word: np.uint64) -> int:
    """Place of the lowest set bit; undefined for 0."""
    return np.int64(_trailing_zeros(word))  # type: ignore[return-value]
