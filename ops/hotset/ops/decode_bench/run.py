"""All arms at all batch sizes, side by side, as a report of the kind that the other benches make."""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from hotset.kernels.measure import Row, event_pair
from hotset.kernels.measure import environment as gpu_environment
from hotset.ops.decode_bench.arms import ARMS, Measured, measure
from hotset.ops.decode_bench.replay import Replay
from hotset.ops.decode_bench.scene import Prompts
from hotset.ops.decode_bench.settle import settle_driver
from hotset.ops.decode_bench.shapes import SHAPES, Shape
from hotset.ops.decode_bench.sidecar import SidecarError
from hotset.protos.errors import CapacityError, ConfigError
from hotset.protos.messages import Model
from hotset.runtime.gpu.steps import bucket
from hotset.runtime.huggingface import model_shape

_LINK_BYTES = 1 << 29
Tell = Callable[[str], None]


class More(NamedTuple):
    """Rows of tables that were asked for, else None."""

    kernels: list[Row] | None
    host: list[Row] | None

    def take(self, found: Measured) -> None:
        """Add those of an arm."""
        for rows, new in ((self.kernels, found.kernels), (self.host, found.host)):
            if rows is not None:
                rows += new


def run(
    names: Sequence[str],
    *,
    batches: Sequence[int] | None = None,
    steps: int = 40,
    trace: Path | None = None,
    arms: Sequence[str] = ARMS,
    heads: Model | None = None,
    profiled: bool = False,
    timed: bool = False,
    tell: Tell = lambda line: None,
) -> Row:
    """Measure the shapes `names`; {"command", "environment", "tables"} as kernels.suite makes them.

    `trace` (.parquet) steers the selections of random models, and what their lookahead ranks where it recorded that.
    `heads` decide in the arm 2k+learned, which is left out without them. `profiled` adds a table of what ran in each
    arm's steps, and `timed` one of what the host did in them, on a GPU alone. `tell` is told each line as it is known.
    Raises ConfigError for an arm that is none, or for a random model without a trace.
    """
    if unknown := sorted(set(arms) - set(ARMS)):
        raise ConfigError(f"no arm is called {', '.join(unknown)}; choose of {', '.join(ARMS)}")
    on_gpu = torch.cuda.is_available()
    gbps = link_gbps() if on_gpu else None
    small = settle_driver() if on_gpu else None
    tables = {}
    for shape in map(SHAPES.__getitem__, names):
        if shape.config is not None and trace is None:
            raise ConfigError(f"random weights select nothing sensible; give --trace FILE.parquet for {shape.name}")
    for name in names:
        shape = SHAPES[name]
        title = f"{shape.name}, context {shape.context}, pages of {shape.page_size}, k = {shape.selected}"
        more = More([] if profiled and on_gpu else None, [] if timed and on_gpu else None)
        tables[title] = _shape(shape, batches or shape.batches, steps, trace, arms, heads, gbps, more, tell)
        if more.kernels:
            tables[f"What runs in a step of {shape.name}"] = more.kernels
        if more.host:
            tables[f"What the host does in a step of {shape.name}"] = more.host
    return {"command": f"hotset bench decode {' '.join(f'--shape {n}' for n in names)}",
            "environment": environment(gbps, small), "tables": tables}  # fmt: skip


def environment(gbps: float | None, small: tuple[float, float] | None = None) -> Row:
    """What the figures depend on; `small` as from settle_driver."""
    if gbps is not None:
        told = {} if small is None else {"small kernel us": " then ".join(f"{us:.2f}" for us in small)}
        return {**gpu_environment(), "link GB/s": round(gbps, 1), **told}
    return {"device": "cpu", "torch": torch.__version__, "threads": torch.get_num_threads()}


def link_gbps() -> float:
    """What one large pinned copy gets over the host link, 10^9 bytes a second."""
    host = torch.empty(_LINK_BYTES, dtype=torch.uint8, pin_memory=True)
    there = torch.empty(_LINK_BYTES, dtype=torch.uint8, device="cuda")
    times = []
    for _ in range(5):
        begin, end = event_pair()
        begin.record()
        there.copy_(host, non_blocking=True)
        end.record()
        end.synchronize()
        times.append(float(begin.elapsed_time(end)))
    return _LINK_BYTES / min(times) / 1e6


def _shape(
    shape: Shape,
    batches: Sequence[int],
    steps: int,
    trace: Path | None,
    arms: Sequence[str],
    heads: Model | None,
    gbps: float | None,
    more: More,
    tell: Tell,
) -> list[Row]:
    """Rows of all arms; those of other tables go to `more`."""
    on_gpu = gbps is not None
    model, tokenizer = shape.load("cuda" if on_gpu else "cpu")
    prompts = Prompts(shape, tokenizer) if shape.config is None else None
    recorded = _replay(shape, model, trace, bucket(max(batches)))
    rows = []
    for batch in batches:
        reference: Measured | None = None
        for arm in arms:
            if not _sensible(arm, recorded, heads, random=shape.config is not None):
                continue
            found = _measured(arm, shape, model, prompts, batch, steps, recorded, heads, more)
            if isinstance(found, Measured):
                more.take(found)
            reference = found if arm == "hbm" and isinstance(found, Measured) else reference
            row = _row(arm, batch, found, reference, gbps, shape)
            rows.append(row)
            tell(" ".join(f"{key}={_short(value)}" for key, value in row.items()))
            # Decoder and listener know each other, and a graph keeps its memory until both are gone.
            gc.collect()
            if on_gpu:
                torch.cuda.empty_cache()
    return rows


def _sensible(arm: str, recorded: Replay | None, heads: Model | None, *, random: bool) -> bool:
    """Whether there is what the arm needs: heads, and a record's lists or ranks where the model is random."""
    if arm == "2k+lists":
        return recorded is not None
    ranked = not random or (recorded is not None and bool(recorded.ranks))
    return {"2k+bare": ranked, "2k+learned": ranked and heads is not None}.get(arm, True)


def _replay(shape: Shape, model: Any, path: Path | None, rows: int) -> Replay | None:
    if shape.config is None or path is None:
        return None
    from hotset.predictor.trace import read_trace

    sizes = model_shape(model, shape.name)
    return Replay.tile(read_trace(path), sizes, rows, shape.start // shape.page_size, model.device)


def _measured(
    arm: str, shape: Shape, model: Any, prompts: Prompts | None, batch: int, steps: int, replay: Replay | None,
    heads: Model | None, more: More,
) -> Measured | str:  # fmt: skip
    try:
        return measure(
            arm, shape, model, prompts, batch, steps, replay, heads=heads, profiled=more.kernels is not None,
            timed=more.host is not None,
        )  # fmt: skip
    except (torch.OutOfMemoryError, CapacityError) as error:
        return f"does not fit: {str(error).splitlines()[0]}"
    except SidecarError as error:
        return f"not measured: {error}"


def _row(
    arm: str, batch: int, found: Measured | str, reference: Measured | None, gbps: float | None, shape: Shape
) -> Row:
    if isinstance(found, str):
        return {**dict.fromkeys(_COLUMNS, "-"), "batch": batch, "arm": arm, "tokens": found}
    floor = found.moved_bytes / gbps / 1e9 if gbps else 0.0
    alike = shape.config is None and reference is not None
    values: Row = {
        "batch": batch,
        "arm": arm,
        "tokens/s": batch / found.step,
        "of hbm": reference.step / found.step if reference else "-",
        "step ms": found.step * 1e3,
        "compute ms": (found.step - found.stall) * 1e3,
        "stall ms": found.stall * 1e3,
        "events ms": found.events * 1e3,
        "misses": found.misses,
        "MB moved": found.moved_bytes / 1e6,
        "floor ms": floor * 1e3 if gbps else "-",
        "stall/floor": found.stall / floor if floor else "-",
        "plans": found.plans,
        "tokens": _compared(found.tokens, reference.tokens) if alike and reference else "-",
    }
    assert tuple(values) == _COLUMNS
    return values


def _compared(tokens: list[list[int]], others: list[list[int]]) -> str:
    # An arm with a daemon has decoded a few more until it was steered.
    alike = all(a[: len(b)] == b[: len(a)] for a, b in zip(tokens, others, strict=True))
    return "as hbm" if alike else "DIFFER"


_COLUMNS = ("batch", "arm", "tokens/s", "of hbm", "step ms", "compute ms", "stall ms", "events ms", "misses",
            "MB moved", "floor ms", "stall/floor", "plans", "tokens")  # fmt: skip


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
