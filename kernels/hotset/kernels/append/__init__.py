"""append: the new token's K and V go to their place in the tail page, whose bounds widen."""

from __future__ import annotations

import torch

from hotset.kernels.append import reference
from hotset.kernels.dispatch import require, require_tensor, use_kernel

FLOATS = (torch.bfloat16, torch.float16, torch.float32)

__all__ = ["append"]


def append(
    keys: torch.Tensor,
    values: torch.Tensor,
    slots: torch.Tensor,
    bounds: torch.Tensor,
    slot_of: torch.Tensor,
    tails: torch.Tensor,
    offsets: torch.Tensor,
    *,
    layer: int,
    lanes: int,
) -> None:
    """Write one token of `layer` for each of B sequences into its tail.

    keys, values: [B, Hkv, D]. slots: [S, 2, page_size, D]. bounds: [P, 2, D], a page's min and max of keys, which its
    first token begins anew. slot_of: [P] int32. tails: [B] int32, the group of each sequence's tail;
    a negative one (a padded row) writes nothing, nor does a tail without a slot. offsets: [B] int32, the token's place
    in its page. `lanes` is layers * Hkv. Raises ValueError on arguments that do not fit.
    """
    require_tensor("keys", keys, (None, None, None), *FLOATS, like=slots)
    batch, heads, dim = keys.shape
    require_tensor("values", values, (batch, heads, dim), keys.dtype, like=keys)
    require_tensor("slots", slots, (None, 2, None, dim), keys.dtype)
    require_tensor("bounds", bounds, (slot_of.numel(), 2, dim), keys.dtype, like=keys)
    require_tensor("slot_of", slot_of, (None,), torch.int32, like=keys)
    require_tensor("tails", tails, (batch,), torch.int32, like=keys)
    require_tensor("offsets", offsets, (batch,), torch.int32, like=keys)
    require(0 <= layer * heads <= lanes - heads, f"layer {layer} lies outside {lanes} lanes")
    if batch == 0:
        return
    if use_kernel(keys):
        from hotset.kernels.append import kernel

        kernel.launch(keys, values, slots, bounds, slot_of, tails, offsets, layer, lanes)
    else:
        reference.append(keys, values, slots, bounds, slot_of, tails, offsets, layer, lanes)
