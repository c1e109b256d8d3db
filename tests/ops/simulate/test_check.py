"""`hotset simulate --check`: figures side by side, and what is no such run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from hotset.ops.simulate.check import COMPARED, check
from hotset.ops.simulate.engine import Engine
from hotset.ops.simulate.node import Node
from hotset.ops.simulate.workload import tile
from hotset.predictor.trace import Trace
from hotset.protos.errors import ConfigError


@pytest.fixture
def run(sample: Trace, sample_path: Path, tmp_path: Path) -> Path:
    """A folder as a decode of the sample leaves it, which stalled twice as long as the model says."""
    slots = 2 * 64 * sample.meta.layers * sample.meta.kv_heads * 2
    node = Node(concurrency=2, slots=slots, step_us=5000, sequence_us=0, link_gbps=1)
    tally = Engine(tile(sample.meta, sample.sequences, sequences=2), node).run()
    first = int(min(s.epochs[0] for s in sample.sequences))
    lines = [
        {
            "epoch": first + i, "sequences": 2, "accesses": 2 * 12 * 64, "demand_misses": s.demand_pages,
            "moved_bytes": s.demand_pages * sample.meta.page_bytes,
            "seconds": (5000 + 2 * s.stall_us) / 1e6, "stall_seconds": 2 * s.stall_us / 1e6,
        }
        for i, s in enumerate(tally.steps)
    ]  # fmt: skip
    (tmp_path / "steps.jsonl").write_text("\n".join(json.dumps(line) for line in lines))
    (tmp_path / "decode.json").write_text(json.dumps({"geometry": {"slots": slots}}))
    (tmp_path / "daemon" / "trace").mkdir(parents=True)
    shutil.copy(sample_path, tmp_path / "daemon" / "trace" / "part-000000.parquet")
    return tmp_path


def test_errors_are_relative_to_the_run(run: Path) -> None:
    found = check(run, Node(link_gbps=1))
    assert tuple(found) == COMPARED
    for name in ("accesses", "demand_misses", "moved_bytes"):
        assert found[name]["error"] == 0
    assert found["stall_seconds"]["error"] == pytest.approx(-0.5)
    assert found["tokens_per_second"]["error"] > 0


def test_what_is_no_such_run(run: Path, tmp_path: Path) -> None:
    (run / "other" / "trace").mkdir(parents=True)
    with pytest.raises(ConfigError, match="2 trace logs"):
        check(run, Node())
    (run / "decode.json").unlink()
    with pytest.raises(ConfigError, match="not the folder of a finished decode"):
        check(run, Node())
