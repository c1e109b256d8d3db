"""Page features: what the device knows of every page, kept up inside the step and laid out as rows for the forest."""

from __future__ import annotations

from typing import Any

import torch

from hotset.kernels.dispatch import require, require_tensor, use_kernel
from hotset.kernels.page_features import compiled
from hotset.kernels.page_features.state import PageFeatures, Place
from hotset.protos.device_features import PAGE_FEATURES, RANK_FEATURES
from hotset.protos.messages import AccessFlag

HOST: Any = compiled
"""What runs on a CPU; tests put the reference in its place."""

__all__ = ["PageFeatures", "Place", "lookahead_columns", "observe", "page_columns"]


def observe(
    state: PageFeatures, place: Place, ids: torch.Tensor, scores: torch.Tensor, flags: torch.Tensor | None = None
) -> None:
    """Learn what a layer saw at `place.steps`: call it once a layer and step, after selection.

    ids [B, H, n] int32: logical pages, different within a lane, -1 pads. scores [B, H, n] uint8; flags [B, H, n] uint8,
    of which AccessFlag.SELECTED counts; None: the first `state.selected` ids are the selection. A page that several
    sequences share keeps what one of them wrote. A lane whose churn has no average yet begins one.
    Raises ValueError on tensors that do not fit.
    """
    _check(state, place, ids)
    require_tensor("scores", scores, tuple(ids.shape), torch.uint8, like=ids)
    if flags is not None:
        require_tensor("flags", flags, tuple(ids.shape), torch.uint8, like=ids)
    if use_kernel(ids) and ids.numel():
        from hotset.kernels.page_features import kernel

        kernel.observe(state, place, ids, scores, flags)
        return
    if flags is None:
        chosen = torch.arange(ids.shape[2], device=ids.device) < state.selected
        flags = (chosen & (ids >= 0)).to(torch.uint8) * int(AccessFlag.SELECTED)
    HOST.observe(state, place, ids, scores, flags)


def page_columns(state: PageFeatures, place: Place, ids: torch.Tensor, pages: torch.Tensor) -> torch.Tensor:
    """PAGE_FEATURES of pages as of `place.steps`, which has been observed: [F, B, H, m] float32, NaN where id is -1.

    ids [B, H, m] int32: logical pages. pages [B] int32: pages of each sequence. `columns.flatten(1).T` are rows as the
    forest takes them. Raises ValueError on tensors that do not fit.
    """
    _check(state, place, ids)
    require_tensor("pages", pages, (ids.shape[0],), torch.int32, like=ids)
    out = torch.empty(len(PAGE_FEATURES), *ids.shape, dtype=torch.float32, device=ids.device)
    if use_kernel(ids) and ids.numel():
        from hotset.kernels.page_features import kernel

        kernel.page_columns(state, place, ids, pages, out)
        return out
    columns: torch.Tensor = HOST.page_columns(state, place, ids, pages)
    return columns


def lookahead_columns(state: PageFeatures, place: Place, ids: torch.Tensor, pages: torch.Tensor) -> torch.Tensor:
    """DEVICE_FEATURES of a lookahead for the step after `place.steps`: [F, B, H, R] float32, NaN where id is -1.

    ids [B, H, R] int32: logical pages, best first, different within a lane, -1 pads; R as the state was made for.
    The state keeps the lookahead, but for sequences that are at their `first`: `observe` compares it with what the
    step selects, the next one with its ranks.
    Raises ValueError on tensors that do not fit.
    """
    _check(state, place, ids)
    require_tensor("pages", pages, (ids.shape[0],), torch.int32, like=ids)
    ranks = state.ranked.shape[2]
    require(ids.shape[2] == ranks, f"{ids.shape[2]} ranked pages a lane; the state was made for {ranks}")
    if use_kernel(ids) and ids.numel():
        from hotset.kernels.page_features import kernel

        width = len(PAGE_FEATURES) + len(RANK_FEATURES)
        out = torch.empty(width, *ids.shape, dtype=torch.float32, device=ids.device)
        kernel.page_columns(state, place, ids, pages, out)
        kernel.rank_columns(state, place, ids, out)
        return out
    columns: torch.Tensor = HOST.lookahead_columns(state, place, ids, pages)
    return columns


def _check(state: PageFeatures, place: Place, ids: torch.Tensor) -> None:
    require_tensor("ids", ids, (None, place.kv_heads, None), torch.int32, like=state.words)
    batch = ids.shape[0]
    require_tensor("groups_of", place.groups_of, (batch, None), torch.int32, like=ids)
    require_tensor("rows", place.rows, (batch,), torch.int32, like=ids)
    require_tensor("steps", place.steps, (batch,), torch.int32, like=ids)
    if place.first is not None:
        require_tensor("first", place.first, (batch,), torch.int32, like=ids)
    inside = 0 <= place.layer * place.kv_heads <= state.lanes - place.kv_heads
    require(inside, f"layer {place.layer} lies outside {state.lanes} lanes")
