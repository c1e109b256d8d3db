"""What reporting a step costs the decode thread, with `Engine` over a real socket and an observer that reads along.

    python tests/bench/bench_engine.py [--lanes 256] [--sequences 1 4 12] [--selected 64] [--steps 200]

Prints one JSON object a batch size: median milliseconds a step of the decode thread, by its processor time and by
the clock, attached and not. Misses are 5% of the accesses. The I/O thread sends beside it and is not counted.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

from hotset.daemon.connection import Connection
from hotset.protos.discovery import private_dir
from hotset.protos.messages import Geometry, StepStats
from hotset.protos.transport import ZmqClient
from hotset.runtime.engine import Engine

PAGES = 512
Cost = tuple[float, float]


def main() -> None:
    """Measure every batch size asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lanes", type=int, default=256, help="layers times KV heads")
    parser.add_argument("--sequences", type=int, nargs="+", default=[1, 4, 12])
    parser.add_argument("--selected", type=int, default=64)
    parser.add_argument("--steps", type=int, default=200)
    told = parser.parse_args()
    for sequences in told.sequences:
        print(json.dumps(measure(told.lanes, sequences, told.selected, told.steps)), flush=True)


def measure(lanes: int, sequences: int, selected: int, steps: int) -> dict[str, Any]:
    """Costs of one batch size."""
    geometry = Geometry(
        layers=lanes, kv_heads=1, page_size=16, selected=selected, candidates=2 * selected, page_bytes=8192,
        slots=sequences * lanes * PAGES, groups=sequences * PAGES,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        engine = Engine.listen(
            model="bench", geometry=geometry, builtin_policy="lru", folder=private_dir(Path(folder) / "run")
        )
        for number in range(sequences):
            groups = range(number * PAGES, (number + 1) * PAGES)
            engine.open_sequence(number, prompt_tokens=PAGES * 16, groups=groups)
        alone = _steps(engine, sequences, steps)
        stop = threading.Event()
        reader = threading.Thread(target=_read, args=(engine.endpoint, stop))
        reader.start()
        while not engine.attached:
            time.sleep(0.01)
        attached = _steps(engine, sequences, steps)
        stop.set()
        reader.join()
        engine.close()
    return {
        "lanes": lanes, "sequences": sequences, "candidates_a_step": lanes * sequences * 2 * selected,
        "alone_cpu_ms": alone[0], "alone_ms": alone[1], "attached_cpu_ms": attached[0], "attached_ms": attached[1],
    }  # fmt: skip


def _steps(engine: Engine, sequences: int, steps: int) -> Cost:
    shape, random = engine.geometry, np.random.default_rng(0)
    rows, numbers = sequences * shape.lanes, list(range(sequences))
    candidates = np.argsort(random.random((rows, PAGES)), axis=1)[:, : shape.candidates].astype(np.int32)
    scores = random.integers(0, 256, candidates.shape, dtype=np.uint8)
    selected = np.zeros(candidates.shape, np.bool_)
    selected[:, : shape.selected] = True
    pages = len(engine.resident)
    engine.gained(np.flatnonzero(~engine.resident), by="prompt")
    costs: list[Cost] = []
    for _ in range(steps):
        moved = random.choice(pages, rows * shape.selected // 20, replace=False).astype(np.int32)
        cpu, clock = time.thread_time(), time.perf_counter()
        engine.begin_step()
        engine.lost(moved)
        engine.gained(moved, by="demand")
        report = engine.accesses(numbers, candidates, scores, selected) if engine.attached else None
        engine.end_step(numbers, [PAGES * 16] * sequences, report, StepStats(step_us=1000))
        costs.append((1e3 * (time.thread_time() - cpu), 1e3 * (time.perf_counter() - clock)))
        time.sleep(0.01)
    cpu_ms, ms = (round(statistics.median(column), 3) for column in zip(*costs, strict=True))
    return cpu_ms, ms


def _read(endpoint: str, stop: threading.Event) -> None:
    connection = Connection(ZmqClient(endpoint), "bench")
    connection.attach("observer")
    while not stop.is_set():
        connection.receive(0.1)
    connection.close()


if __name__ == "__main__":
    main()
