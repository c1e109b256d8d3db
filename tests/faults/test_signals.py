"""SIGKILL and SIGSTOP of either side at random moments, over and over."""

from __future__ import annotations

import random
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from logs import check_logs
from sandbox import Hotset, until
from sizes import ROUNDS, SEED
from vitals import vitals
from witness import Witness

from hotset.predictor.trace import Trace

pytestmark = pytest.mark.e2e
SLACK = 2
"""Threads and descriptors by which a moment may differ from another: a poll, a status or log file being written."""


class Stage:
    """An engine, its daemon and a witness, each replaced when it dies."""

    def __init__(self, hotset: Hotset, trace: Path, witness: Callable[[str], Witness]) -> None:
        self._hotset, self._trace, self._witness = hotset, trace, witness
        self.daemon = self.new_daemon()
        self.engine = self.new_engine()
        self.steered(5)

    def new_daemon(self) -> subprocess.Popen[str]:
        self.daemon = self._hotset.daemon("--flush-seconds", 0.2)
        return self.daemon

    def new_engine(self) -> subprocess.Popen[str]:
        self.engine = self._hotset.start("play", self._trace, "--speed", 100, "--times", 200, "--check")
        self.ear = self._witness(self._hotset.endpoint(self.engine))
        return self.engine

    def steered(self, plans: int = 3) -> None:
        """Wait until the daemon steers the engine (again)."""
        self.ear.hears(plans=plans)

    def kill_daemon(self, wait: float) -> None:
        self.daemon.kill()
        self.daemon.wait()
        self.ear.hears(steps=10, within=5)
        self.new_daemon()

    def stop_daemon(self, wait: float) -> None:
        self.daemon.send_signal(signal.SIGSTOP)
        self.ear.hears(steps=max(5, round(50 * wait)), within=5)
        self.daemon.send_signal(signal.SIGCONT)

    def kill_engine(self, wait: float) -> None:
        self.engine.kill()
        assert self.engine.wait() == -signal.SIGKILL
        assert self.daemon.poll() is None
        self.new_engine()

    def stop_engine(self, wait: float) -> None:
        self.engine.send_signal(signal.SIGSTOP)
        time.sleep(wait)
        assert self.daemon.poll() is None
        self.engine.send_signal(signal.SIGCONT)


def test_either_side_killed_or_stopped_at_random_moments(
    hotset: Hotset, trace: Path, recorded: Trace, witness: Callable[[str], Witness]
) -> None:
    """What is decoded never changes, steering resumes each time, and the survivors hold no more than before."""
    chance, stage = random.Random(SEED), Stage(hotset, trace, witness)
    blows = [stage.stop_engine, stage.kill_daemon, stage.stop_daemon, stage.kill_engine]
    first: dict[int, tuple[int, int]] = {}
    for number in range(ROUNDS):
        time.sleep(chance.uniform(0, 0.4))
        blows[number % 4 if number < 4 else chance.randrange(4)](chance.uniform(0.05, 0.8))
        stage.steered()
        for process in (stage.daemon, stage.engine):
            now = vitals(process.pid)
            then = first.setdefault(process.pid, now[:2])
            assert max(now.threads - then[0], now.descriptors - then[1]) <= SLACK, (number, then, now)
    stage.daemon.terminate()
    assert stage.daemon.wait(30) == 0
    assert "Traceback" not in "".join(map(hotset.said, hotset.processes))
    assert check_logs(hotset, recorded) >= 2
    until(lambda: len(hotset.ps()) == 1)
