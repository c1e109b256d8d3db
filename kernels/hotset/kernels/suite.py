"""The op benches by name, and their reports as JSON and Markdown."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module

import torch

from hotset.kernels.measure import Row, environment, markdown
from hotset.protos.errors import HotsetError

# Title of each table, and the function of the op's bench module that measures it.
SUITES: dict[str, tuple[tuple[str, str, str], ...]] = {
    "swap-in": (
        ("Copies over the host link", "swap_in", "run"),
        ("What a copy costs a kernel beside it", "swap_in", "interference"),
    ),
    "resolve": (
        ("Resolve and swap-in, rows of one token", "resolve", "run"),
        ("Resolve, swap-in and reclaim, pages of 16 tokens of 1,152 bytes", "resolve", "run_pages"),
    ),
    "attend": (
        ("Sparse paged decode attention, bf16", "attend", "run"),
        ("Page scores and selection", "select", "run"),
    ),
    "forest": (
        ("A LightGBM forest over rows of 24 features", "forest", "run"),
        ("One layer's decision inside the step", "decide", "run"),
    ),
}


class NoDeviceError(HotsetError):
    """The op benches measure kernels, so they need a CUDA device."""


def run(name: str) -> Row:
    """Measure one suite: {"command", "environment", "tables": {title: rows}}. Raises NoDeviceError without a GPU."""
    if not torch.cuda.is_available():
        raise NoDeviceError(f"`hotset bench {name}` measures GPU kernels and found no CUDA device; run it on one")
    torch.manual_seed(0)
    tables: dict[str, list[Row]] = {}
    for title, op, function in SUITES[name]:
        measure: Callable[[], list[Row]] = getattr(import_module(f"hotset.kernels.{op}.bench"), function)
        tables[title] = measure()
        torch.cuda.empty_cache()
    return {"command": f"hotset bench {name}", "environment": environment(), "tables": tables}


def to_markdown(report: Row) -> str:
    """A report as a section of a page: what it ran on, how, and its tables."""
    ran_on = ", ".join(f"{key} {value}" for key, value in report["environment"].items())
    parts = [f"`{report['command']}` on {ran_on}"]
    for title, rows in report["tables"].items():
        parts += [f"### {title}", markdown(rows)]
    return "\n\n".join(parts) + "\n"
