"""Signals that ask a decode process to stop, one inside the handler of another."""

from __future__ import annotations

import subprocess
import sys

NESTED = """
import signal, sys
from hotset.ops.decoding import stopping

def again(frame, event, argument):
    if event == "call":
        signal.raise_signal(signal.SIGINT)

with stopping() as stopped:
    sys.setprofile(again)
    signal.raise_signal(signal.SIGTERM)
    sys.setprofile(None)
    print(stopped.is_set())
"""


def test_a_signal_in_the_handler_of_another_is_one_request() -> None:
    """`timeout` signals a process and then its group: a handler that takes a lock would wait for itself."""
    done = subprocess.run([sys.executable, "-c", NESTED], capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stdout) == (0, "True\n"), done.stderr
