"""The model against a real decode: what the simulator says of a recorded run, beside what was measured in it.

The run must have decoded by its built-in policy while a daemon only logged (`hotset daemon --plan-every 1000000000`).
Compute is not predicted: the median of step time less stall is taken from the run. Misses, movement, stall and
throughput are.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from hotset.ops.simulate.engine import Engine
from hotset.ops.simulate.node import Node
from hotset.ops.simulate.workload import tile
from hotset.predictor.trace import open_trace
from hotset.protos.errors import ConfigError

STEPS_FILE, RESULT_FILE = "steps.jsonl", "decode.json"
COMPARED = ("accesses", "demand_misses", "moved_bytes", "stall_seconds", "tokens_per_second")


def check(run: Path, node: Node) -> dict[str, dict[str, float]]:
    """Figures of COMPARED -> `real`, `predicted` and the relative `error`, over the steps that the log holds.

    `node` gives link and built-in policy as the run had them. Raises ConfigError if the folder is not such a run.
    """
    result, steps, reader = _read(run)
    recorded = [reader.read(number) for number in reader.sequence_ids]
    epochs = set(reader.epochs.tolist())
    real = [step for step in steps if step["epoch"] in epochs]
    batch = len(recorded)
    if not real or any(step["sequences"] != batch for step in real):
        raise ConfigError(f"{run}: not all sequences of its log decode in each of its steps; such a run is needed")
    compute = float(np.median([step["seconds"] - step["stall_seconds"] for step in real]))
    fitted = node.model_copy(
        update={
            "concurrency": batch, "slots": result["geometry"]["slots"], "step_us": 1e6 * compute, "sequence_us": 0.0
        }
    )  # fmt: skip
    tally = Engine(tile(reader.meta, recorded, sequences=batch), fitted).run()
    found = tally.report()
    seconds = tally.total("step_us") / 1e6
    predicted = {
        "accesses": found["accesses"],
        "demand_misses": found["demand_misses"],
        "moved_bytes": found["moved_bytes"],
        "stall_seconds": tally.total("stall_us") / 1e6,
        "tokens_per_second": found["tokens"] / seconds,
    }
    measured = _measured(real)
    return {
        name: {
            "real": measured[name], "predicted": predicted[name], "error": predicted[name] / (measured[name] or 1) - 1
        }
        for name in COMPARED
    }  # fmt: skip


def _measured(real: list[dict[str, Any]]) -> dict[str, float]:
    total = {name: sum(step[name] for step in real) for name in real[0]}
    found: dict[str, float] = {name: total[name] for name in COMPARED if name in total}
    return {**found, "tokens_per_second": total["sequences"] / total["seconds"]}


def _read(run: Path) -> tuple[dict[str, Any], list[dict[str, Any]], Any]:
    """decode.json, the lines of steps.jsonl, and the one trace log below the folder."""
    try:
        result = json.loads((run / RESULT_FILE).read_text())
        steps = [json.loads(line) for line in (run / STEPS_FILE).read_text().splitlines()]
    except (OSError, ValueError) as error:
        raise ConfigError(f"{run}: not the folder of a finished decode (`hotset decode --out`): {error}") from None
    traces = sorted(path for path in run.rglob("trace") if path.is_dir())
    if len(traces) != 1:
        raise ConfigError(
            f"{run}: {len(traces)} trace logs below it; one is needed, of a daemon with --log-dir {run / 'daemon'} "
            "--plan-every 1000000000"
        )
    return result, steps, open_trace(traces[0])
