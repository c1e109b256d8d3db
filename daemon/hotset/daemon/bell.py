"""Wakes a waiting thread from a signal handler, where taking a lock (as threading.Event does) may deadlock."""

from __future__ import annotations

import contextlib
import select
import socket


class Bell:
    """One thread waits, anybody rings. Rings that nobody waited for are kept, as one."""

    def __init__(self) -> None:
        self._ours, self._theirs = socket.socketpair()
        self._ours.setblocking(False)
        self._theirs.setblocking(False)

    def ring(self) -> None:
        """Safe in a signal handler, and after `close`."""
        # A full pipe is a bell that rings already.
        with contextlib.suppress(OSError):
            self._theirs.send(b"!")

    def wait(self, seconds: float) -> None:
        """Return after `seconds`, or as soon as it rings."""
        if select.select([self._ours], [], [], seconds)[0]:
            self._ours.recv(4096)

    def close(self) -> None:
        """Release both ends."""
        self._ours.close()
        self._theirs.close()
