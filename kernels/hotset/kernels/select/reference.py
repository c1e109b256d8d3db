"""Torch reference of select."""

from __future__ import annotations

import torch


def select(mass: torch.Tensor, pages: torch.Tensor, k: int, n: int, recent: int) -> torch.Tensor:
    """See the public function."""
    width = mass.shape[2]
    page = torch.arange(width, device=mass.device)
    count = pages.long()[:, None]
    exists = (page < count)[:, None]
    forced = exists & ((page == 0) | (page >= count - recent))[:, None]
    key = torch.where(forced, torch.inf, torch.where(exists, mass, -1.0))
    # A stable sort breaks ties to the lower page.
    order = torch.sort(key, dim=-1, descending=True, stable=True).indices[..., :n]
    ids = torch.where(order < count[:, None], order, width)
    chosen = torch.sort(ids[..., :k], dim=-1).values
    ids = torch.cat((chosen, ids[..., k:]), -1)
    ids = torch.where(ids < width, ids, -1).to(torch.int32)
    return torch.nn.functional.pad(ids, (0, n - ids.shape[-1]), value=-1)


def mass_to_score(mass: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """See the public function."""
    score = torch.round(255 + 8 * torch.log2(torch.gather(mass, -1, ids.clamp(min=0).long()))).clamp(0, 255)
    return torch.where(ids >= 0, score, 0.0).to(torch.uint8)


def select_given(ids: torch.Tensor, pages: torch.Tensor, n: int) -> torch.Tensor:
    """See the public function."""
    beyond = torch.iinfo(torch.int32).max
    wrong = (ids < 0) | (ids >= pages[:, None, None])
    ordered = torch.sort(torch.where(wrong, beyond, ids).to(torch.int32), dim=-1).values
    again = torch.zeros_like(ordered, dtype=torch.bool)
    again[..., 1:] = ordered[..., 1:] == ordered[..., :-1]
    ordered = torch.sort(torch.where(again, beyond, ordered), dim=-1).values
    ordered = torch.where(ordered == beyond, -1, ordered)
    return torch.nn.functional.pad(ordered, (0, n - ids.shape[2]), value=-1)


def physical_pages(ids: torch.Tensor, groups_of: torch.Tensor, layer: int, kv_heads: int, lanes: int) -> torch.Tensor:
    """See the public function."""
    groups = torch.gather(groups_of.long()[:, None].expand(-1, kv_heads, -1), -1, ids.clamp(min=0).long())
    lane = layer * kv_heads + torch.arange(kv_heads, device=ids.device)[:, None]
    return torch.where(ids >= 0, groups * lanes + lane, -1).to(torch.int32)


def selected_places(
    ids: torch.Tensor,
    groups_of: torch.Tensor,
    pages: torch.Tensor,
    last: torch.Tensor,
    selected: int,
    page_size: int,
    layer: int,
    lanes: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """See the public function."""
    chosen = ids[..., :selected]
    tokens = torch.where(chosen == (pages - 1)[:, None, None], last[:, None, None], page_size)
    valid = torch.where(chosen >= 0, tokens, 0).to(torch.int32)
    return physical_pages(chosen, groups_of, layer, ids.shape[1], lanes), valid
