"""`hotset bench`: measure the GPU kernels, or whole decode steps, on this machine."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

HELP = """Measure the GPU kernels in captured graphs: swap-in, resolve, attend or forest. Or whole decode steps: decode.

Prints Markdown. Without a GPU only decode runs, at small sizes on the CPU backend.

Example: hotset bench swap-in

Another example: hotset bench resolve --json resolve.json --markdown resolve.md

A third: hotset bench decode --shape llama --trace tests/data/sample.parquet --batch 1 --batch 8
"""


class Suite(StrEnum):
    """What can be measured."""

    SWAP_IN = "swap-in"
    RESOLVE = "resolve"
    ATTEND = "attend"
    FOREST = "forest"
    DECODE = "decode"


class ShapeName(StrEnum):
    """What `hotset bench decode` decodes."""

    LLAMA = "llama"
    SMOLLM2 = "smollm2"
    TINY = "tiny"


def register(app: typer.Typer) -> None:
    """Add `bench` to the command line."""
    app.command("bench", help=HELP)(bench)


def bench(
    suite: Annotated[Suite, typer.Argument(help="Which kernels.")],
    shape: Annotated[
        list[ShapeName] | None, typer.Option(help="decode: which models [default: smollm2 and llama; tiny on a CPU]")
    ] = None,
    trace: Annotated[Path | None, typer.Option(help="decode: a trace whose selections random models replay")] = None,
    batch: Annotated[list[int] | None, typer.Option(min=1, help="decode: batch sizes [default: up to 24]")] = None,
    arm: Annotated[list[str] | None, typer.Option(help="decode: which arms [default: all]")] = None,
    model: Annotated[
        Path | None, typer.Option(help="decode: folder of a trained model, which decides in the arm 2k+learned")
    ] = None,
    kernels: Annotated[
        bool, typer.Option("--kernels", help="decode: also what runs in a step, kernel by kernel")
    ] = False,
    host: Annotated[
        bool, typer.Option("--host", help="decode: also what the host does in a step, part by part")
    ] = False,
    steps: Annotated[int, typer.Option(min=2, max=120, help="decode: timed steps of an arm")] = 40,
    json_to: Annotated[Path | None, typer.Option("--json", help="Write the figures here, too.")] = None,
    markdown_to: Annotated[Path | None, typer.Option("--markdown", help="Write the tables here, too.")] = None,
) -> None:
    """See HELP."""
    from hotset.kernels import suite as suites

    if suite is Suite.DECODE:
        report = _decode([s.value for s in shape or []], trace, batch, steps, arm, model, kernels, host)
    else:
        report = suites.run(suite.value)
    if suite is Suite.FOREST:
        from hotset.ops import boosters

        report["tables"]["Beside LightGBM on the processor"] = boosters.run()
    text = suites.to_markdown(report)
    if json_to is not None:
        json_to.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    if markdown_to is not None:
        markdown_to.write_text(text, encoding="utf-8")
    typer.echo(text)


def _decode(
    shapes: list[str],
    trace: Path | None,
    batches: list[int] | None,
    steps: int,
    arms: list[str] | None,
    model: Path | None,
    kernels: bool,
    host: bool,
) -> dict[str, Any]:
    from hotset.ops.imports import large_imports

    with large_imports():
        import torch

        from hotset.ops.decode_bench.arms import ARMS
        from hotset.ops.decode_bench.heads import load_heads
        from hotset.ops.decode_bench.run import run

    names = shapes or (["smollm2", "llama"] if torch.cuda.is_available() else ["tiny"])
    heads = None if model is None else load_heads(model)
    return run(
        names, batches=batches, steps=steps, trace=trace, arms=arms or ARMS, heads=heads, profiled=kernels,
        timed=host, tell=lambda line: typer.echo(line, err=True),
    )  # fmt: skip
