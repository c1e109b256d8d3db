"""`hotset simulate --real`: a log beside its simulation, what calibrates it, and what is no such log."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hotset.ops.simulate.calibrate import machine_of
from hotset.ops.simulate.node import Node
from hotset.ops.simulate.real import compare
from hotset.ops.simulate.recorded import read_run
from hotset.ops.simulate.run import Job, Load, simulate
from hotset.protos.errors import ConfigError

NODE = Node(concurrency=2, ratio=1.5, link_gbps=0.5, link_latency_us=70, step_us=2000, sequence_us=300)


def _run(sample_path: Path, folder: Path, policy: str, sequences: int = 3, tokens: int = 30) -> dict[str, float]:
    """A log as a decode leaves it that is just what the model says: three sequences, two at once."""
    load = Load(sequences=sequences, tokens=tokens)
    return simulate(Job((sample_path,), policy=policy, load=load, node=NODE, log_dir=folder))[1]


@pytest.mark.parametrize("policy", ["builtin", "heuristic"])
def test_a_run_that_is_as_the_model_says_has_no_error(policy: str, sample_path: Path, tmp_path: Path) -> None:
    report = _run(sample_path, tmp_path, policy)
    real = read_run(tmp_path)
    assert real.planner == policy
    assert [len(real.epochs), real.batch.max(), real.most_open] == [report["steps"], 2, 2]
    assert real.told["demand_pages"].sum() == report["demand_misses"]
    found = compare(tmp_path)
    assert (found["policy"], found["steps"] + found["calibrated"]) == (policy, report["steps"])
    for row in found["figures"].values():
        assert row["error"] is None or abs(row["error"]) < 1e-3
    assert found["batch_us"] == pytest.approx(NODE.link_latency_us, abs=1)
    assert found["page_us"] == pytest.approx(real.meta.page_bytes / 500, rel=0.01)
    assert compare(tmp_path, link_gbps=1.0)["figures"]["stall_ms"]["error"] != 0


def test_another_run_calibrates(sample_path: Path, tmp_path: Path) -> None:
    """Three sequences, two at once, then one: what that says of the machine holds for a run that differs."""
    _run(sample_path, tmp_path / "one", "builtin")
    _run(sample_path, tmp_path / "other", "heuristic", sequences=2, tokens=25)
    found = compare(tmp_path / "other", calibrate=tmp_path / "one")
    assert (found["steps"], found["calibrated"]) == (25, 60)
    for row in found["figures"].values():
        assert row["error"] is None or abs(row["error"]) < 2e-3


def test_a_slower_link_than_was_told_is_an_error(sample_path: Path, tmp_path: Path) -> None:
    _run(sample_path, tmp_path, "builtin", sequences=2)
    found = compare(tmp_path, link_gbps=5.0)
    # What a page takes is given, so that the wait of a batch takes the blame, which is no matter of pages.
    assert found["batch_us"] > NODE.link_latency_us
    assert found["figures"]["demand_misses"]["error"] == 0


def test_steps_in_which_the_machine_was_disturbed_do_not_calibrate() -> None:
    rng = np.random.default_rng(1)
    layers, pages = rng.integers(20, 31, 60).astype(float), rng.integers(100, 400, 60).astype(float)
    batch = rng.integers(1, 4, 60).astype(float)
    stall, compute = 200 * layers + 16 * pages, 5000 + 700 * batch
    disturbed = rng.random(60) < 0.25
    found = machine_of(compute + 9e4 * disturbed, batch, stall + 5e4 * disturbed, layers, pages, None)
    np.testing.assert_allclose(found, [5000, 700, 200, 16], rtol=0.01)
    given = machine_of(compute + 9e4 * disturbed, batch, stall + 5e4 * disturbed, layers, pages, 16.0)
    assert given.batch_us == pytest.approx(200)
    alike = machine_of(compute, np.ones(60), stall, layers, pages, None)
    assert alike.sequence_us == 0
    assert machine_of(compute, batch, 0 * stall, 0 * layers, 0 * pages, None)[2:] == (0, 0)


def test_what_cannot_be_compared(sample_path: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not say what its steps took"):
        compare(sample_path)
    with pytest.raises(ConfigError, match="without what it decides inside steps"):
        compare(sample_path, policy="learned-device")
    with pytest.raises(ConfigError, match="no trace log"):
        compare(tmp_path)
    _run(sample_path, tmp_path / "short", "builtin", sequences=2, tokens=4)
    with pytest.raises(ConfigError, match="4 steps are too few"):
        compare(tmp_path / "short")
    _run(sample_path, tmp_path / "other", "builtin", sequences=2, tokens=4)
    with pytest.raises(ConfigError, match="2 trace logs"):
        compare(tmp_path)
