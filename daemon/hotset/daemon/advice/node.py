"""What all sessions of one daemon share: devices whose memory is split between decode processes."""

from __future__ import annotations

import threading


class Node:
    """Thread-safe: every session's advisor reads and writes it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
