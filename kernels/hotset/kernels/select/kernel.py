# ruff: noqa: N803 - compile-time parameters are upper case, as everywhere in Triton
# mypy: disable-error-code="import-untyped, no-untyped-def, untyped-decorator"
"""Triton kernels of select: a program a lane, which holds all its pages' masses in registers.

A mass is not negative, so its bits order as an integer. The k-th and the n-th largest are found by one bisection over
the 31 bits, which ends as soon as both lists are told apart; ties by ranking with a prefix sum over pages. Nothing is
sorted but the few candidates beyond the selection. Each step of the bisection is a sum over the program's threads, so
few warps do: with one, no sum crosses a barrier.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from hotset.kernels.dispatch import next_power_of_two


@triton.jit
def _thresholds(key, few, many, WIDTH: tl.constexpr):
    """Bits of the `few`-th and `many`-th largest of `key` (int32; -1 never), or of less with the same entries above."""
    # Both counts in one word, so that one sum finds them.
    half: tl.constexpr = 16 if WIDTH < 1 << 15 else 32
    word: tl.constexpr = tl.int32 if WIDTH < 1 << 15 else tl.int64
    least_few = tl.zeros([], tl.int32)
    least_many = tl.zeros([], tl.int32)
    exact_few = few == 0
    exact_many = many == 0
    bit = tl.full([], 30, tl.int32)
    while bit >= 0:
        raised_few = least_few | (1 << bit)
        raised_many = least_many | (1 << bit)
        found = tl.sum((key >= raised_few).to(word) + ((key >= raised_many).to(word) << half))
        found_few = (found & ((1 << half) - 1)).to(tl.int32)
        found_many = (found >> half).to(tl.int32)
        least_few = tl.where(found_few >= few, raised_few, least_few)
        least_many = tl.where(found_many >= many, raised_many, least_many)
        exact_few = exact_few | (found_few == few)
        exact_many = exact_many | (found_many == many)
        bit = tl.where(exact_few & exact_many, -1, bit - 1)
    return least_few, least_many


@triton.jit
def _largest(key, least, count):
    """Marks the `count` largest of `key`, ties to the lower index; `least` is what _thresholds finds for it."""
    above = key > least
    equal = key == least
    room = count - tl.sum(above.to(tl.int32))
    rank = tl.cumsum(equal.to(tl.int32), 0)
    return above | (equal & (rank <= room))


@triton.jit
def _score(mass):
    octaves = tl.where(mass > 0, tl.log2(tl.where(mass > 0, mass, 1.0)), -64.0)
    level = tl.floor(255.0 + 8.0 * octaves + 0.5)
    return tl.minimum(tl.maximum(level, 0.0), 255.0).to(tl.uint8)


@triton.jit(do_not_specialize=["width"])
def _select(
    mass,
    pages,
    ids,
    scores,
    width,
    HEADS: tl.constexpr,
    K: tl.constexpr,
    N: tl.constexpr,
    RECENT: tl.constexpr,
    WIDTH: tl.constexpr,
    REST: tl.constexpr,
):
    lane = tl.program_id(0).to(tl.int64)
    count = tl.load(pages + lane // HEADS)
    j = tl.arange(0, WIDTH)
    exists = j < count
    m = tl.load(mass + lane * width + j, mask=exists, other=0.0)
    forced = (j == 0) | (j >= count - RECENT)
    # 0x7f800000 is infinity: above every finite mass.
    key = tl.where(exists, tl.where(forced, 0x7F800000, m.to(tl.int32, bitcast=True)), -1)
    first = tl.minimum(count, K)
    every = tl.minimum(count, N)
    least_first, least_every = _thresholds(key, first, every, WIDTH)
    chosen = _largest(key, least_first, first) & exists
    place = tl.cumsum(chosen.to(tl.int32), 0) - 1
    out = ids + lane * N
    level = scores + lane * N
    pad = tl.arange(0, WIDTH)
    tl.store(out + place, j, mask=chosen)
    tl.store(level + place, _score(m), mask=chosen)
    for start in range(0, N, WIDTH):
        tl.store(out + start + pad, -1, mask=(start + pad >= first) & (start + pad < N))
        tl.store(level + start + pad, 0, mask=(start + pad >= first) & (start + pad < N))
    if REST > 0:
        rest = every - first
        more = _largest(key, least_every, every) & exists & ~chosen
        place = K + tl.cumsum(more.to(tl.int32), 0) - 1
        # The pads above and these stores go to the same places, from different threads.
        tl.debug_barrier()
        tl.store(out + place, j, mask=more)
        tl.debug_barrier()
        r = tl.arange(0, REST)
        page = tl.load(out + K + r, mask=r < rest, other=0)
        bits = tl.load(mass + lane * width + page, mask=r < rest, other=0.0).to(tl.int32, bitcast=True).to(tl.int64)
        packed = (bits << 32) | (0x7FFFFFFF - page).to(tl.int64)
        packed = tl.sort(tl.where(r < rest, packed, -1), descending=True)
        tl.debug_barrier()
        tl.store(out + K + r, 0x7FFFFFFF - (packed & 0x7FFFFFFF).to(tl.int32), mask=r < rest)
        tl.store(level + K + r, _score((packed >> 32).to(tl.int32).to(tl.float32, bitcast=True)), mask=r < rest)


@triton.jit(do_not_specialize=["total", "max_pages", "lane_of_head_0"])
def _physical(
    ids, groups_of, physical, total, n, max_pages, lane_of_head_0, lanes, KV_HEADS: tl.constexpr, BLOCK: tl.constexpr
):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    page = tl.load(ids + i, mask=i < total, other=-1)
    lane = i // n
    there = groups_of + (lane // KV_HEADS).to(tl.int64) * max_pages + page
    group = tl.load(there, mask=page >= 0, other=0)
    tl.store(physical + i, tl.where(page >= 0, group * lanes + lane_of_head_0 + lane % KV_HEADS, -1), mask=i < total)


@triton.jit(do_not_specialize=["total", "max_pages", "lane_of_head_0"])
def _places(
    ids, groups_of, pages, last, physical, valid, total, n, max_pages, lane_of_head_0, lanes,
    KV_HEADS: tl.constexpr, K: tl.constexpr, PAGE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    lane = i // K
    row = lane // KV_HEADS
    page = tl.load(ids + lane.to(tl.int64) * n + i % K, mask=i < total, other=-1)
    group = tl.load(groups_of + row.to(tl.int64) * max_pages + page, mask=page >= 0, other=0)
    newest = tl.load(pages + row, mask=i < total, other=0) - 1
    tokens = tl.where(page == newest, tl.load(last + row, mask=i < total, other=0), PAGE)
    found = tl.where(page >= 0, group * lanes + lane_of_head_0 + lane % KV_HEADS, -1)
    tl.store(physical + i, found, mask=i < total)
    tl.store(valid + i, tl.where(page >= 0, tokens, 0), mask=i < total)


def warps_for(width: int) -> int:
    """Warps of a program that holds `width` masses."""
    return min(32, max(4, width // 512))


def launch(mass: torch.Tensor, pages: torch.Tensor, k: int, n: int, recent: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Arguments as checked by the public function."""
    batch, heads, width = mass.shape
    ids = torch.empty(batch, heads, n, dtype=torch.int32, device=mass.device)
    scores = torch.empty(batch, heads, n, dtype=torch.uint8, device=mass.device)
    padded = next_power_of_two(width)
    _select[(batch * heads,)](
        mass, pages, ids, scores, width,
        HEADS=heads, K=k, N=n, RECENT=recent, WIDTH=padded, REST=next_power_of_two(n - k) if n > k else 0,
        num_warps=warps_for(padded),
    )  # fmt: skip
    return ids, scores


def launch_physical(ids: torch.Tensor, groups_of: torch.Tensor, layer: int, kv_heads: int, lanes: int) -> torch.Tensor:
    """Arguments as checked by the public function."""
    physical = torch.empty_like(ids)
    grid = (triton.cdiv(ids.numel(), 1024),)
    _physical[grid](
        ids, groups_of, physical, ids.numel(), ids.shape[2], groups_of.shape[1], layer * kv_heads, lanes,
        KV_HEADS=kv_heads, BLOCK=1024, num_warps=4,
    )  # fmt: skip
    return physical


def launch_places(
    ids: torch.Tensor,
    groups_of: torch.Tensor,
    pages: torch.Tensor,
    last: torch.Tensor,
    k: int,
    page_size: int,
    layer: int,
    lanes: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Arguments as checked by the public function."""
    batch, heads, n = ids.shape
    physical, valid = (torch.empty(batch, heads, k, dtype=torch.int32, device=ids.device) for _ in range(2))
    total, block = batch * heads * k, 256
    _places[(triton.cdiv(total, block),)](
        ids, groups_of, pages, last, physical, valid, total, n, groups_of.shape[1], layer * heads, lanes,
        KV_HEADS=heads, K=k, PAGE=page_size, BLOCK=block, num_warps=4,
    )  # fmt: skip
    return physical, valid
