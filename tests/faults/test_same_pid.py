"""A runtime that comes back under the same number: the same file, the same socket, but another session."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from logs import check_logs
from sandbox import HOTSET, Hotset, planned, until
from witness import Witness

from hotset.predictor.trace import Trace

pytestmark = pytest.mark.e2e
LAST_PID = Path("/proc/sys/kernel/ns_last_pid")
MANY_LIVES = """
import sys
from hotset.ops.cli import build
app = build()
for times in sys.argv[2:]:
    app(["play", sys.argv[1], "--speed", "200", "--check", "--times", times], standalone_mode=False)
"""


def test_runtimes_one_after_the_other_in_one_process(
    hotset: Hotset, trace: Path, recorded: Trace, witness: Callable[[str], Witness]
) -> None:
    """The process lives on and each of its runtimes takes the file and the socket of the one before over."""
    daemon = hotset.daemon("--flush-seconds", 0.2)
    engine = hotset.start(trace, 2, 2, 90, command=(sys.executable, "-c", MANY_LIVES))
    until(lambda: [status["role"] for status in hotset.statuses()] == ["ended", "ended", "controller"])
    witness(hotset.endpoint(engine)).hears(plans=20)
    until(lambda: planned(hotset.statuses()[2]) > 20)
    assert len({status["session"] for status in hotset.statuses()}) == 3
    for status in hotset.statuses()[:2]:
        assert status["reason"] == "another runtime answers in its place"
        assert planned(status) <= status["counters"]["steps_received"] <= 300
    assert daemon.poll() is None
    assert check_logs(hotset, recorded) == 3


def test_another_process_under_the_number_of_a_killed_one(
    hotset: Hotset, trace: Path, recorded: Trace, witness: Callable[[str], Witness]
) -> None:
    """The daemon sleeps through it: it wakes to a live process of that number, at the socket it was connected to."""
    play = ("play", trace, "--speed", 100, "--times", 90, "--check")
    daemon = hotset.daemon("--flush-seconds", 0.2)
    engine = hotset.start(*play)
    witness(hotset.endpoint(engine)).hears(plans=20)
    daemon.send_signal(signal.SIGSTOP)
    engine.kill()
    engine.wait()
    assert {path.name for path in hotset.runtime.iterdir()} == {f"{engine.pid}.json", f"{engine.pid}.sock"}
    again = _start_as(hotset, engine.pid, *play)
    witness(hotset.endpoint(again)).hears(steps=10)
    daemon.send_signal(signal.SIGCONT)
    until(lambda: [status["role"] for status in hotset.statuses()] == ["ended", "controller"])
    until(lambda: planned(hotset.statuses()[1]) > 20)
    assert [status["pid"] for status in hotset.statuses()] == [engine.pid] * 2
    assert [row["pid"] for row in hotset.ps()] == [engine.pid]
    assert check_logs(hotset, recorded) == 2


def _start_as(hotset: Hotset, pid: int, *arguments: object) -> subprocess.Popen[str]:
    """Start `hotset ARGUMENTS` as process `pid`, which must be free."""
    for _ in range(50):
        try:
            LAST_PID.write_text(str(pid - 1))
        except OSError as error:
            pytest.skip(f"this user cannot choose the number of the next process: {error}")
        started = hotset.start(*arguments, command=HOTSET)
        if started.pid == pid:
            return started
        # Another process of this machine was faster.
        started.kill()
        started.wait()
    pytest.skip(f"the number {pid} was never free")
