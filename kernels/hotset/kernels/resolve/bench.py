"""Bench of resolve and swap-in: what a layer call costs by batch and misses, with token rows and with pages."""

from __future__ import annotations

import torch

from hotset.kernels.measure import Row, graph_us
from hotset.kernels.reclaim import reclaim
from hotset.kernels.resolve import Resolved, resolve
from hotset.kernels.state import ResidencyState
from hotset.kernels.swap_in import swap_in

# Microseconds a layer call of SGLang 0.5.23 HiSparse on the same kind of GPU, in CUDA graphs: top-k 2,048 rows, hot
# buffer 4,096 rows, block 1,024 (measured apart from this bench, as given by the project's goals).
PEER = {
    (656, 1): {0: 12.4, 64: 21.9, 256: 38.7, 1024: 111.0},
    (656, 8): {0: 13.0, 64: 23.2, 256: 48.1, 1024: 150.0},
    (656, 64): {0: 15.4, 64: 111.0, 256: 386.0, 1024: 1486.0},
    (1152, 1): {0: 13.3, 64: 20.3, 256: 40.5, 1024: 116.0},
    (1152, 8): {0: 15.1, 64: 27.9, 256: 62.4, 1024: 203.0},
    (1152, 64): {0: 16.9, 64: 140.0, 256: 507.0, 1024: 1971.0},
}
TOP_K, HOT = 2048, 4096
CONTEXT = 8192


def run() -> list[Row]:
    """Rows of one token: resolve alone, resolve and swap-in, and the peer's fused kernel."""
    rows = []
    for (row, batch), peer in PEER.items():
        for misses, theirs in peer.items():
            scene = _Scene(batch, TOP_K, HOT, misses, CONTEXT, row)
            ours = graph_us(scene.both, prepare=scene.restore)
            rows.append(
                {
                    "row bytes": row,
                    "batch": batch,
                    "misses a request": misses,
                    "resolve us": graph_us(scene.resolve, prepare=scene.restore),
                    "resolve + swap-in us": ours,
                    "peer us": theirs,
                    "times faster": theirs / ours,
                }
            )
    return rows


def run_pages() -> list[Row]:
    """Pages of 16 tokens of 1,152 bytes: resolve alone, resolve and swap-in, and reclaim (off the critical path)."""
    rows = []
    for batch in (1, 8, 64):
        for misses in (0, 4, 16, 64):
            scene = _Scene(batch, TOP_K // 16, HOT // 16, misses, CONTEXT // 16, 16 * 1152)
            rows.append(
                {
                    "batch": batch,
                    "pages asked": batch * TOP_K // 16,
                    "misses a request": misses,
                    "resolve us": graph_us(scene.resolve, prepare=scene.restore),
                    "resolve + swap-in us": graph_us(scene.both, prepare=scene.restore),
                    "reclaim us": graph_us(scene.reclaim, prepare=scene.restore),
                }
            )
    return rows


class _Scene:
    """`batch` requests that each ask for `top_k` rows, of which `misses` are not among the `hot` resident ones."""

    def __init__(self, batch: int, top_k: int, hot: int, misses: int, context: int, row: int) -> None:
        self.state = ResidencyState.create(
            slots=batch * hot, groups=batch * context, layers=1, kv_heads=1, device="cuda"
        )
        own = torch.arange(batch, device="cuda")[:, None] * context
        order = torch.stack([torch.randperm(context, device="cuda") for _ in range(batch)])
        resident, absent = order[:, :hot] + own, order[:, hot:] + own
        self._fill(resident.flatten())
        asked = torch.cat((resident[:, : top_k - misses], absent[:, :misses]), 1)
        self.pages = asked[:, torch.randperm(top_k, device="cuda")].flatten().to(torch.int32)
        # The reserve must hold this call's misses, but none of its hits: those are the ones used last.
        self.state.last_used[self.state.slot_of[asked[:, : top_k - misses].flatten()].long()] = 7
        self.state.tick.fill_(8)
        self.state.step_tick.fill_(7)
        reserve = min(batch * (hot - top_k), max(1, batch * misses))
        reclaim(self.state, low=reserve, high=reserve, policy="lru")
        self.watermark = min(batch * (hot - top_k), 2 * reserve)
        self.saved = self.state.clone()
        frames = min(batch * context, (1 << 30) // row)
        self.host = torch.randint(0, 256, (frames, row), dtype=torch.uint8).pin_memory()
        self.frame_of = torch.randint(0, frames, (batch * context,), device="cuda", dtype=torch.int32)
        self.rows = torch.empty(batch * hot, row, dtype=torch.uint8, device="cuda")

    def _fill(self, pages: torch.Tensor) -> None:
        slots = torch.randperm(pages.numel(), device="cuda")
        self.state.page_of[slots] = pages.int()
        self.state.slot_of[pages] = slots.int()
        self.state.state.fill_(1)
        self.state.last_used.random_(0, 7)

    def restore(self, _: int) -> None:
        names = (
            "slot_of",
            "page_of",
            "state",
            "last_used",
            "in_ring",
            "ring",
            "ring_head",
            "ring_tail",
            "evicted_count",
        )
        torch._foreach_copy_([getattr(self.state, n) for n in names], [getattr(self.saved, n) for n in names])

    def resolve(self, _: int) -> Resolved:
        return resolve(self.state, self.pages, "lru")

    def both(self, _: int) -> None:
        done = resolve(self.state, self.pages, "lru")
        swap_in(self.host, self.rows, done.miss_pages, done.miss_slots, done.miss_count, frame_of=self.frame_of)

    def reclaim(self, _: int) -> None:
        reclaim(self.state, low=self.watermark, high=self.watermark, policy="lru")
