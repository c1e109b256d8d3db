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

from hotset.kernels.decide import join_candidates
from hotset.kernels.decide.bench import Layer
from hotset.kernels.dispatch import interpreting
from hotset.kernels.forest import DeviceForest, forest
from hotset.kernels.forest.bench import COLUMNS, random_forest

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
    join_candidates(layer.ids, layer.ids)


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
