"""An hour's worth of steps, faster: neither side gains threads, descriptors or memory."""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path
from subprocess import Popen

import pytest
from sandbox import Hotset, until, write_trace
from sizes import STEPS
from vitals import Vitals, settled, vitals
from witness import Witness

from hotset.predictor.trace import read_trace
from hotset.protos.trace import TraceMeta

pytestmark = pytest.mark.e2e
META = TraceMeta(model="tiny", layers=1, kv_heads=2, page_size=4, selected=4, candidates=8, page_bytes=64)
SPEED = 800
WITHIN = 1200.0
"""seconds for a part of the steps"""
ROW_STEPS = 500
"""Steps of the trace that is played over and over, each time as new sequences."""
FULL = STEPS >= 50_000
GROWTH = {"engine": 2 << 20, "daemon": (4 if FULL else 64) << 20}
"""Bytes by which the memory of two parts of a steady state may differ; a short run of the daemon's is none yet."""
BEGIN = STEPS // 10 if FULL else 2 * STEPS // 5
"""Steps after which nothing should grow."""


def least(ear: Witness, processes: Iterable[Popen[str]], step: int) -> dict[Popen[str], Vitals]:
    """The least that each held until the engine came to a step.

    A daemon's memory goes up and down: by 6 MB within seconds on a busy machine, and by as much for minutes.
    """
    seen: dict[Popen[str], list[Vitals]] = {process: [vitals(process.pid)] for process in processes}
    end = time.monotonic() + WITHIN
    while ear.epoch < step:
        assert time.monotonic() < end, f"waited in vain at step {ear.epoch} for {step}"
        ear.waits_for(min(step, ear.epoch + SPEED // 10), within=WITHIN)
        for process, found in seen.items():
            found.append(vitals(process.pid))
    return {process: Vitals(*map(min, zip(*found, strict=True))) for process, found in seen.items()}


def test_an_hour_of_steps(hotset: Hotset, tmp_path: Path) -> None:
    """Sequences come and go all the time, and after a while nothing grows."""
    trace = tmp_path / "trace"
    write_trace(trace, steps=ROW_STEPS, meta=META)
    daemon = hotset.daemon("--flush-seconds", 2)
    times = -(-STEPS // ROW_STEPS) + 40
    engine = hotset.start("play", trace, "--speed", SPEED, "--times", times)
    ear = Witness(hotset.endpoint(engine), read_trace(trace))
    ear.waits_for(BEGIN, within=WITHIN)
    early = least(ear, (engine, daemon), STEPS // 2)
    late = least(ear, (engine, daemon), STEPS)
    for process, name in ((engine, "engine"), (daemon, "daemon")):
        first, last = early[process], late[process]
        print(f"{name} between {BEGIN} and {STEPS // 2} steps and until {ear.epoch}: {first} {last}")
        assert last.threads <= first.threads
        assert last.descriptors <= first.descriptors + 1
        assert last.memory <= first.memory + GROWTH[name]
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
