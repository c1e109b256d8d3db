# mypy: disable-error-code="import-untyped"
"""Compile the kernels that a script of calls would launch for an H100 or H200, on a machine without a GPU.

Run as `python tests/kernels/compile_for_hopper.py`: prints a line for each kernel, registers and bytes spilled.
Triton's own compiler and ptxas run; only the launch is left out. The interpreter is no compiler: it accepts what
Triton's language does not.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime.jit import JITFunction

from hotset.kernels.append import append
from hotset.kernels.changes import find_changes
from hotset.kernels.decide import decide, join_candidates, rescue
from hotset.kernels.decide.bench import Layer
from hotset.kernels.dispatch import interpreting
from hotset.kernels.fold import fold
from hotset.kernels.forest import DeviceForest, forest
from hotset.kernels.forest.bench import COLUMNS, random_forest
from hotset.kernels.prefetch import Ahead, begin_ahead, begin_prefetch, commit_ahead, commit_prefetch
from hotset.kernels.record import Accessed, Recorded, record
from hotset.kernels.resolve import resolve
from hotset.kernels.select import select, selected_places
from hotset.kernels.state import ResidencyState
from hotset.kernels.swap_in import rows_of, stamp, swap_in
from hotset.kernels.tally import count_unused, count_uses

HOPPER = GPUTarget("cuda", 90, 32)
FOUND: dict[str, Any] = {}


class _NoDriver:
    """What compilation asks of a driver."""

    def get_current_target(self) -> GPUTarget:
        return HOPPER

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_active_torch_device(self) -> torch.device:
        return torch.device("cpu")


def _compile_only(kernel: JITFunction[Any], *args: Any, grid: Any, warmup: bool, **options: Any) -> None:
    compiled = _RUN(kernel, *args, grid=grid, warmup=True, **options)
    FOUND[f"{kernel.__name__}-{len(FOUND)}"] = compiled


_RUN = JITFunction.run


def usage(cubin: bytes) -> tuple[int, int]:
    """Registers a thread, and bytes a thread that spill to memory."""
    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        told = subprocess.run([tool, "-res-usage", file.name], capture_output=True, text=True, check=True).stdout
    registers, stack = (int(re.findall(rf"{name}:(\d+)", told)[-1]) for name in ("REG", "STACK"))
    return registers, stack


def call_all() -> None:
    """One call of every op in the shapes that it is made for."""
    for trees, leaves in ((32, 31), (64, 31), (16, 255)):
        model = DeviceForest.upload(random_forest(trees, leaves))
        forest(model, torch.zeros(COLUMNS, 16384).T)
    for batch, heads, selected in ((16, 8, 128), (1, 2, 64)):
        layer = Layer.make(batch, heads, selected, device="cpu")
        layer.ahead()
        layer.settle()
        for frames in (None, layer.residency.slot_of):
            asked = layer.physical(), layer.physical().long()
            begun = begin_prefetch(layer.residency, *asked, keep=1, frame_of=frames)
            for wasted in (None, torch.zeros(1, dtype=torch.int64)):
                commit_prefetch(layer.residency, *begun[:3], wasted=wasted)
        rescue(layer.residency, layer.physical(), torch.zeros(layer.ids.numel()))
        state, pages, one = layer.residency, layer.physical(), torch.ones(1, dtype=torch.int32)
        decide(state, pages, torch.zeros(pages.numel()), torch.zeros(1), limit=9, protect=1,
               unknown=torch.zeros(batch, dtype=torch.int32))  # fmt: skip
        ahead = Ahead(one, one, one, state.slot_of, state.page_of)
        commit_ahead(state, *begin_ahead(state, pages, ahead, one, keep=1, why=1), one, torch.zeros(1).long())
    join_candidates(layer.ids, layer.ids)
    call_step()


def call_step() -> None:
    """What the runtime's step calls beside the kernels that were measured: Llama-3-8B, then a small head."""
    for heads, dim, dtype in ((8, 128, torch.bfloat16), (3, 64, torch.float16)):
        lanes, batch, k, n = 2 * heads, 4, 128, 256
        one = torch.zeros(batch, dtype=torch.int32)
        keys = torch.zeros(batch, heads, dim, dtype=dtype)
        rows, bounds = torch.zeros(64, 2, 16, dim, dtype=dtype), torch.zeros(4 * lanes, 2, dim, dtype=dtype)
        append(keys, keys, rows, bounds, torch.zeros(4 * lanes, dtype=torch.int32), one, one, layer=1, lanes=lanes)
        ids, groups = torch.zeros(batch, heads, n, dtype=torch.int32), torch.zeros(batch, 512, dtype=torch.int32)
        selected_places(ids, groups, one, one, selected=k, page_size=16, layer=1, lanes=lanes)
        marks = torch.zeros(2, batch, heads, k, dtype=torch.bool)
        step = Accessed(ids.expand(2, -1, -1, -1).contiguous(), torch.zeros(2, batch, heads, n, dtype=torch.uint8),
                        marks, marks, groups)  # fmt: skip
        average, counts = torch.zeros(4 * lanes), torch.zeros(3, dtype=torch.int64)
        wire = torch.zeros(batch, 2, heads, n, dtype=torch.uint8)
        out = Recorded(wire.int(), wire, wire)
        for by_margin, into in ((True, out), (False, None)):
            record(step, average, counts, by_margin=by_margin, out=into)
            fold(average, average, by_margin=by_margin)
        frames, clock = rows_of(rows), torch.zeros(2, dtype=torch.int64)
        swap_in(frames, frames, one, one, one[:1], frame_of=one, clock=clock)
        swap_in(frames, frames, one, one, one[:1], frame_of=one, clock=clock, early=False)
        stamp(clock[:1])
        call_residency(heads, lanes)


def call_residency(heads: int, lanes: int) -> None:
    """What ranks pages, gives them slots and tells of it."""
    state = ResidencyState.create(slots=600, groups=40, layers=2, kv_heads=heads)
    for width in (512, 2048, 8192):
        mass, pages = torch.zeros(2, heads, width), torch.ones(2, dtype=torch.int32)
        select(mass, pages, selected=128, candidates=256, recent=4)
        select(mass, pages, selected=5, candidates=256, recent=4)
    for policy in ("lru", "score-ema"):
        resolve(state, torch.zeros(1024, dtype=torch.int32), policy, advance=True)
    seen = torch.zeros(600, dtype=torch.int32)
    shown = torch.zeros(state.slot_of.numel(), dtype=torch.bool)
    find_changes(state, seen, shown, seen, seen, torch.zeros(4, dtype=torch.int64))
    slots, table = torch.zeros(2, 1024, dtype=torch.int32), torch.zeros(2, 2, dtype=torch.int64)
    count_uses(slots, slots > 0, seen, table)
    count_unused(state, seen, table)


def main() -> None:
    """See the module."""
    triton.runtime.driver.set_active(_NoDriver())
    JITFunction.run = _compile_only
    with interpreting():
        call_all()
    for name, compiled in FOUND.items():
        registers, spilled = usage(compiled.asm["cubin"])
        print(f"{name}: {registers} registers, {spilled} bytes spilled, {compiled.metadata.shared} bytes shared")


if __name__ == "__main__":
    main()
