"""Runs a daemon as a process: its log, its signals, and its configuration read again."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from types import FrameType

from hotset.daemon import logs, training
from hotset.daemon.server import Daemon
from hotset.daemon.settings import Effective

STOPPING = (signal.SIGTERM, signal.SIGINT)
# `timeout` and others signal a process and then its group: that is one request.
ECHO_SECONDS = 0.25


def run(read: Callable[[], Effective]) -> None:
    """Serve with what `read` gives until the daemon is done or told to stop; SIGHUP has it read again.

    Raises ConfigError if the first reading finds mistakes. Call from the main thread.
    """
    config = read().config
    logs.set_up(config.log_format, config.log_level)
    daemon = Daemon(config, lambda: read().config)
    for number in STOPPING:
        signal.signal(number, stopper(daemon))
    signal.signal(signal.SIGHUP, lambda *_: daemon.ask_reload())
    daemon.serve()


def stopper(daemon: Daemon) -> Callable[[int, FrameType | None], None]:
    """Ends gracefully when called first, at once when called again after ECHO_SECONDS."""

    asked: float | None = None

    def stop(number: int, _frame: FrameType | None) -> None:
        nonlocal asked
        if asked is not None:
            if time.monotonic() < asked + ECHO_SECONDS:
                return
            training.kill_all()
            # The log's lock may be held by what this interrupts; the line is worth less than ending.
            os._exit(128 + number)
        asked = time.monotonic()
        daemon.stop()

    return stop
