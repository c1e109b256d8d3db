"""Selection: the k pages of every lane that attention will read, and the candidates behind them."""

from __future__ import annotations

import torch

from hotset.kernels.dispatch import require, require_tensor, use_kernel
from hotset.kernels.select import reference

__all__ = ["mass_to_score", "physical_pages", "select", "select_given", "select_scored", "selected_places"]


def select(mass: torch.Tensor, pages: torch.Tensor, *, selected: int, candidates: int, recent: int) -> torch.Tensor:
    """Pick the candidates of every lane: ids [B, H, candidates] int32, -1 pads.

    mass: [B, H, max_pages] float32, not negative. pages: [B] int32. The first `selected` ids are the selection, in
    ascending order: page 0 and the `recent` newest pages always, then the largest masses, ties to the lower
    page. The ids behind them are the next best, largest mass first. A sequence of `selected` pages or fewer has
    all of them selected. Raises ValueError unless recent < selected <= candidates and the tensors fit.
    """
    _require_fit(mass, pages, selected, candidates, recent)
    if use_kernel(mass):
        from hotset.kernels.select import kernel

        return kernel.launch(mass, pages, selected, candidates, recent)[0]
    return reference.select(mass, pages, selected, candidates, recent)


def select_scored(
    mass: torch.Tensor, pages: torch.Tensor, *, selected: int, candidates: int, recent: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """As `select`, with the candidates' scores [B, H, candidates] uint8 (see mass_to_score), 0 where padded."""
    _require_fit(mass, pages, selected, candidates, recent)
    if use_kernel(mass):
        from hotset.kernels.select import kernel

        return kernel.launch(mass, pages, selected, candidates, recent)
    ids = reference.select(mass, pages, selected, candidates, recent)
    return ids, reference.mass_to_score(mass, ids)


def mass_to_score(mass: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """Scores of `ids` ([B, H, n] int32): clip(round(255 + 8 * log2(mass)), 0, 255) uint8, 0 where the id is -1."""
    return reference.mass_to_score(mass, ids)


def select_given(ids: torch.Tensor, pages: torch.Tensor, *, n: int) -> torch.Tensor:
    """Take the ids [B, H, m] (int32 or int64) that an engine chose: [B, H, n] int32, ascending, -1 pads behind.

    What is negative, not below the sequence's pages ([B] int32) or repeated is dropped, so that nothing that an
    engine passes can reach memory of another sequence. Raises ValueError if m exceeds n. Needs no host sync.
    """
    require_tensor("ids", ids, (None, None, None), torch.int32, torch.int64)
    require_tensor("pages", pages, (ids.shape[0],), torch.int32, like=ids)
    require(ids.shape[2] <= n, f"{ids.shape[2]} ids do not fit {n} candidates")
    return reference.select_given(ids, pages, n)


def physical_pages(
    ids: torch.Tensor, groups_of: torch.Tensor, *, layer: int, kv_heads: int, lanes: int
) -> torch.Tensor:
    """Physical pages of `ids` ([B, kv_heads, n] int32, -1 pads stay -1) under the page table [B, max_pages] int32."""
    require_tensor("ids", ids, (groups_of.shape[0], kv_heads, None), torch.int32, like=groups_of)
    require_tensor("groups_of", groups_of, (None, None), torch.int32)
    require(0 <= layer * kv_heads <= lanes - kv_heads, f"layer {layer} lies outside {lanes} lanes")
    if use_kernel(ids):
        from hotset.kernels.select import kernel

        return kernel.launch_physical(ids, groups_of, layer, kv_heads, lanes)
    return reference.physical_pages(ids, groups_of, layer, kv_heads, lanes)


def selected_places(
    ids: torch.Tensor,
    groups_of: torch.Tensor,
    pages: torch.Tensor,
    last: torch.Tensor,
    *,
    selected: int,
    page_size: int,
    layer: int,
    lanes: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Of the first `selected` ids of every lane: physical pages and tokens to read, both [B, H, selected] int32.

    ids: [B, H, n] int32, -1 pads (they stay -1, with no token to read). groups_of: [B, max_pages] int32. pages: [B]
    int32. last: [B] int32, tokens in a sequence's last page; the pages before are full. `lanes` is layers * H.
    Raises ValueError on arguments that do not fit.
    """
    batch = groups_of.shape[0]
    require_tensor("ids", ids, (batch, None, None), torch.int32, like=groups_of)
    require_tensor("groups_of", groups_of, (None, None), torch.int32)
    require_tensor("pages", pages, (batch,), torch.int32, like=ids)
    require_tensor("last", last, (batch,), torch.int32, like=ids)
    heads = ids.shape[1]
    require(0 < selected <= ids.shape[2], f"{selected} pages selected of {ids.shape[2]} candidates")
    require(0 <= layer * heads <= lanes - heads, f"layer {layer} lies outside {lanes} lanes")
    if use_kernel(ids):
        from hotset.kernels.select import kernel

        return kernel.launch_places(ids, groups_of, pages, last, selected, page_size, layer, lanes)
    return reference.selected_places(ids, groups_of, pages, last, selected, page_size, layer, lanes)


def _require_fit(mass: torch.Tensor, pages: torch.Tensor, selected: int, candidates: int, recent: int) -> None:
    require_tensor("mass", mass, (None, None, None), torch.float32)
    require_tensor("pages", pages, (mass.shape[0],), torch.int32, like=mass)
    fits = 0 <= recent < selected <= candidates
    require(fits, f"need recent < selected <= candidates, not {recent=}, {selected=}, {candidates=}")
