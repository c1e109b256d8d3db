"""An hour's worth of steps, faster: neither side gains threads, descriptors or memory."""

from __future__ import annotations

from pathlib import Path

import pytest
from sandbox import Hotset, until, write_trace
from sizes import STEPS
from vitals import settled
from witness import Witness

from hotset.predictor.trace import read_trace
from hotset.protos.trace import TraceMeta

pytestmark = pytest.mark.e2e
META = TraceMeta(model="tiny", layers=1, kv_heads=2, page_size=4, selected=4, candidates=8, page_bytes=64)
SPEED = 800
ROW_STEPS = 500
"""Steps of the trace that is played over and over, each time as new sequences."""
GROWTH = {"engine": 2 << 20, "daemon": (4 if STEPS >= 50_000 else 24) << 20}
"""Bytes by which the memory of two moments of a steady state may differ; a short run of the daemon's is none yet."""
SECONDS = 10.0 if STEPS >= 50_000 else 1.0
"""of which the least counts: on a busy machine a daemon's memory goes up and down by 6 MB within some seconds"""


def test_an_hour_of_steps(hotset: Hotset, tmp_path: Path) -> None:
    """Sequences come and go all the time; after the first tenth nothing grows."""
    trace = tmp_path / "trace"
    write_trace(trace, steps=ROW_STEPS, meta=META)
    daemon = hotset.daemon("--flush-seconds", 2)
    times = -(-STEPS // ROW_STEPS) + 40
    engine = hotset.start("play", trace, "--speed", SPEED, "--times", times)
    ear = Witness(hotset.endpoint(engine), read_trace(trace))
    ear.waits_for(STEPS // 10, within=600)
    early = {process: settled(process.pid, SECONDS) for process in (engine, daemon)}
    ear.waits_for(STEPS // 2, within=1200)
    middle = {process: settled(process.pid, SECONDS) for process in (engine, daemon)}
    ear.waits_for(STEPS, within=1200)
    for process, name in ((engine, "engine"), (daemon, "daemon")):
        first, half, last = early[process], middle[process], settled(process.pid, SECONDS)
        print(f"{name} after {STEPS // 10}, {STEPS // 2} and {ear.epoch} steps: {first} {half} {last}")
        assert last.threads <= first.threads
        assert last.descriptors <= first.descriptors + 1
        assert last.memory <= half.memory + GROWTH[name]
    engine.kill()
    engine.wait()
    until(lambda: hotset.statuses()[0]["role"] == "ended")
    ear.close()
    (status,) = hotset.statuses()
    counters = status["counters"]
    print({name: counters[name] for name in ("steps_received", "messages_lost", "plans_sent", "steps_logged")})
    # On a busy machine steps are dropped and plans skipped, but not most of them.
    assert counters["steps_received"] > STEPS // 2
    assert counters["plans_sent"] > STEPS // 100
    info = hotset.run("trace", "info", Path(status["log"]) / "trace")
    assert info.returncode == 0, info.stderr
    until(lambda: settled(daemon.pid).threads < early[daemon].threads)
