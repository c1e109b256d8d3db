"""A training ends when it is told to, whatever its process does."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from hotset.daemon.training import Training

STUBBORN = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("never", flush=True)
time.sleep(600)
"""


def test_a_child_that_does_not_end_does_not_hold_up_the_daemon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "stubborn.py").write_text(STUBBORN)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr("hotset.daemon.training.JOB_MODULE", "stubborn")
    monkeypatch.setattr("hotset.daemon.training.STOP_SECONDS", 0.1)
    training = Training(tmp_path / "log", tmp_path, (), 0)
    until = time.monotonic() + 30
    while not (tmp_path / "output.txt").read_text():
        assert time.monotonic() < until
        time.sleep(0.01)
    training.stop()
    assert training.done
    assert training.error == "the training job ended with -9: never"
