"""How the op benches measure: CUDA events around graph replays, medians over repeats, rows of a table."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from typing import Any

import torch

Row = dict[str, Any]
Body = Callable[[int], object]


def environment() -> Row:
    """What the figures depend on: GPU, driver-side CUDA, torch and Triton versions."""
    from importlib.metadata import version

    return {
        "gpu": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "triton": version("triton"),
    }


def graph_us(body: Body, *, prepare: Body | None = None, calls: int = 20, repeats: int = 25) -> float:
    """Microseconds of one call of `body(i)`, i = 0..calls-1, all in one captured graph; the median of `repeats`.

    With `prepare`, which runs before every call and may restore what the body changes, the time of a graph that
    holds the preparations alone is taken off.
    """

    def both(i: int) -> None:
        if prepare is not None:
            prepare(i)
        body(i)

    whole = _replay_us(both, calls, repeats)
    return (whole - (_replay_us(prepare, calls, repeats) if prepare is not None else 0.0)) / calls


def _replay_us(body: Body, calls: int, repeats: int) -> float:
    # The inputs may still be on their way, on another stream.
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    with torch.cuda.stream(stream):
        # The first call compiles, which a capture must not.
        body(0)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream):
            for i in range(calls):
                body(i)
        for _ in range(3):
            graph.replay()
        times = [_timed_us(graph.replay) for _ in range(repeats)]
    return statistics.median(times)


def _timed_us(run: Callable[[], object]) -> float:
    begin, end = event_pair()
    begin.record()
    run()
    end.record()
    end.synchronize()
    return float(begin.elapsed_time(end)) * 1000


def event_pair() -> tuple[torch.cuda.Event, torch.cuda.Event]:
    """Two timing events."""
    begin = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    end = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    return begin, end


def markdown(rows: Sequence[Row]) -> str:
    """Rows of equal keys as a Markdown table; floats with three significant digits."""
    if not rows:
        return ""
    names = list(rows[0])
    lines = ["| " + " | ".join(names) + " |", "|" + "---|" * len(names)]
    lines += ["| " + " | ".join(_show(row[name]) for name in names) + " |" for row in rows]
    return "\n".join(lines)


def _show(value: object) -> str:
    if not isinstance(value, float):
        return str(value)
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"
