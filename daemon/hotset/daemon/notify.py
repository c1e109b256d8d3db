"""Tells systemd how we are: a datagram to the socket that it names (sd_notify(3)). Says nothing elsewhere."""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Mapping

from hotset.daemon.events import say


class Notifier:
    """Use from one thread. `alive` feeds the watchdog at a third of its time, whenever it is called more often."""

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        name = environment.get("NOTIFY_SOCKET", "")
        # A leading @ stands for the zero byte of the abstract namespace.
        self._address = "\0" + name[1:] if name.startswith("@") else name
        ours = environment.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        self._feed_seconds = int(environment.get("WATCHDOG_USEC") or 0) / 3e6 if ours else 0.0
        self._fed = -self._feed_seconds

    def ready(self, status: str = "serving") -> None:
        """Everything is up, at the start or after a reload."""
        self._tell(f"READY=1\nSTATUS={status}")

    def reloading(self) -> None:
        """`ready` follows."""
        self._tell(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self) -> None:
        """The logs are being finished."""
        self._tell("STOPPING=1\nSTATUS=finishing logs")

    def alive(self) -> None:
        """Nothing hangs."""
        now = time.monotonic()
        if self._feed_seconds and now - self._fed >= self._feed_seconds:
            self._fed = now
            self._tell("WATCHDOG=1")

    def _tell(self, text: str) -> None:
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as out:
                out.settimeout(1.0)
                out.sendto(text.encode(), self._address)
        except OSError as error:
            say(logging.WARNING, "notify_failed", reason=str(error))
