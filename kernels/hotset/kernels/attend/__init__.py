"""Sparse paged decode attention over the selected slots."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from hotset.kernels.attend import reference
from hotset.kernels.dispatch import require, require_tensor, use_kernel

FLOATS = (torch.bfloat16, torch.float16, torch.float32)

__all__ = ["Partial", "attend", "attend_finish", "attend_start"]


@dataclass(frozen=True)
class Partial:
    """Attention to some of the selected pages, not yet normalised; `C` parts."""

    top: torch.Tensor  # [B, Hq, C] float32, largest logit of the part in octaves, -inf if the part is empty
    total: torch.Tensor  # [B, Hq, C] float32, sum of 2**(logit - top)
    weighted: torch.Tensor  # [B, Hq, C, Dv] float32, the values so weighted


def attend(
    query: torch.Tensor,
    slots: torch.Tensor,
    slot_ids: torch.Tensor,
    valid: torch.Tensor,
    *,
    scale: float,
    value_dim: int | None = None,
) -> torch.Tensor:
    """Attention of one query token a sequence over its selected pages: [B, Hq, Dv] of the query's dtype.

    query: [B, Hq, D]; query head h reads KV head h // (Hq // Hkv). slots: [S, 2, page_size, D] (keys, values) or
    [S, 1, page_size, D] (latent rows, as in MLA: the values are the first `value_dim` dimensions of the key).
    slot_ids: [B, Hkv, k] int32 in selection order, -1 pads. valid: [B, Hkv, k] int32, tokens to read of each
    page (the tail is partial; 0 skips a page).

    The sum runs over the selection in selection order, split at places that depend on k and page_size only (the
    split-and-combine scheme of Flash-Decoding, Dao et al. 2023): the bits of the output do not depend on where the
    pages sit nor on the other sequences of the batch. A sequence with no valid token gives zeros.
    Raises ValueError on arguments that do not fit.
    """
    value_dim = _check(query, slots, slot_ids, valid, value_dim)
    if use_kernel(query):
        from hotset.kernels.attend import kernel

        return kernel.combine([kernel.parts(query, slots, slot_ids, valid, scale, value_dim)], query.dtype)
    return reference.attend(query, slots, slot_ids, valid, scale, value_dim)


def attend_start(
    query: torch.Tensor,
    slots: torch.Tensor,
    slot_ids: torch.Tensor,
    valid: torch.Tensor,
    *,
    scale: float,
    value_dim: int | None = None,
) -> Partial:
    """Attend to some pages now (`valid` 0 for the others, which may still be in flight); arguments as for `attend`.

    Opt-in: merging parts by residency changes the order of the sum, so outputs are equal to `attend` only within
    rounding (for bf16 inputs 2e-2 relative to the largest value, float16 3e-3, float32 1e-5), not bit for bit.
    """
    value_dim = _check(query, slots, slot_ids, valid, value_dim)
    if use_kernel(query):
        from hotset.kernels.attend import kernel

        return Partial(*kernel.parts(query, slots, slot_ids, valid, scale, value_dim))
    return Partial(*reference.parts(query, slots, slot_ids, valid, scale, value_dim))


def attend_finish(partials: list[Partial], dtype: torch.dtype) -> torch.Tensor:
    """Merge parts that together cover the selection, in the order given: [B, Hq, Dv] of `dtype`."""
    require(len(partials) > 0, "attend_finish needs at least one partial result")
    parts = [(p.top, p.total, p.weighted) for p in partials]
    if use_kernel(parts[0][0]):
        from hotset.kernels.attend import kernel

        return kernel.combine(parts, dtype)
    return reference.combine(parts, dtype)


def _check(
    query: torch.Tensor, slots: torch.Tensor, slot_ids: torch.Tensor, valid: torch.Tensor, value_dim: int | None
) -> int:
    require_tensor("query", query, (None, None, None), *FLOATS, like=slots)
    batch, heads, dim = query.shape
    require_tensor("slots", slots, (None, None, None, dim), query.dtype)
    require_tensor("slot_ids", slot_ids, (batch, None, None), torch.int32, like=slots)
    require_tensor("valid", valid, tuple(slot_ids.shape), torch.int32, like=slots)
    kv_heads = slot_ids.shape[1]
    require(kv_heads > 0 and heads % kv_heads == 0, f"{heads} query heads do not divide among {kv_heads} KV heads")
    parts = slots.shape[1]
    require(parts in (1, 2), f"slots must hold keys and values or one latent row, not {parts} parts")
    if value_dim is None:
        value_dim = dim
    require(parts == 1 or value_dim == dim, "value_dim is for latent rows; keys and values share head_dim")
    require(0 < value_dim <= dim, f"value_dim {value_dim} exceeds the row's {dim}")
    return value_dim
