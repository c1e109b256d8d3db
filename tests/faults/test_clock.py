"""The wall clock jumps by hours, in both processes; only the monotonic clock decides anything."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from logs import check_logs
from sandbox import Hotset, planned, until
from witness import Witness

from hotset.predictor.trace import Trace

pytestmark = pytest.mark.e2e
SHIM = """
import random, time
real, chance, jump = time.time, random.Random(0), [0.0]
def jumping():
    if chance.random() < 0.5:
        jump[0] = chance.uniform(-30, 30) * 3600
    return real() + jump[0]
time.time = jumping
time.time_ns = lambda: int(1e9 * jumping())
from hotset.ops.cli import main
main()
"""


def test_a_clock_that_jumps_all_the_time(
    hotset: Hotset, trace: Path, recorded: Trace, witness: Callable[[str], Witness]
) -> None:
    """`time.time` of both processes jumps by up to 30 hours to and fro, at every second call."""
    shimmed = (sys.executable, "-c", SHIM)
    daemon = hotset.daemon("--flush-seconds", 0.3, command=shimmed)
    engine = hotset.start("play", trace, "--speed", 100, "--times", 200, "--check", command=shimmed)
    witness(hotset.endpoint(engine)).hears(steps=250, plans=120)
    (status,) = hotset.statuses()
    assert [phase["phase"] for phase in status["phases"]] == ["attach", "heuristic"]
    until(lambda: planned(hotset.statuses()[0]) > 100)
    assert [row["pid"] for row in hotset.ps()] == [engine.pid]
    daemon.terminate()
    assert daemon.wait(30) == 0
    assert check_logs(hotset, recorded) == 1
    (status,) = hotset.statuses()
    times = [status["started"], status["updated"], *(phase["time"] for phase in status["phases"])]
    assert max(times) - min(times) > 1000, "the clock did not jump"
