"""Transport within one process, with the same rules as the ZeroMQ one."""

from __future__ import annotations

import itertools
import threading
from collections import deque
from collections.abc import Sequence

from hotset.protos.transport.base import HIGH_WATER_MARK, Delivery, Sender
from hotset.protos.wire import Frame


class MemoryServer:
    """The runtime's end; `connect` makes a client."""

    def __init__(self, *, high_water_mark: int = HIGH_WATER_MARK) -> None:
        self.high_water_mark = high_water_mark
        self._changed = threading.Condition()
        self._inbox: deque[tuple[bytes, list[Frame]]] = deque()
        self._clients: dict[bytes, MemoryClient] = {}
        self._ids = itertools.count(1)
        self._woken = False

    @property
    def endpoint(self) -> str:
        """Names this server; nobody can connect by it."""
        return f"memory://{id(self):x}"

    def connect(self) -> MemoryClient:
        """A new peer of this server."""
        with self._changed:
            peer = next(self._ids).to_bytes(5, "big")
            client = self._clients[peer] = MemoryClient(self, peer)
        return client

    def receive(self, timeout: float) -> tuple[bytes, list[Frame]] | None:
        """See ServerTransport."""
        with self._changed:
            self._changed.wait_for(lambda: self._inbox or self._woken, timeout)
            self._woken = False
            return self._inbox.popleft() if self._inbox else None

    def sender(self) -> Sender | None:
        """See ServerTransport."""
        return None

    def send(self, peer: bytes, frames: Sequence[Frame]) -> Delivery:
        """See ServerTransport."""
        with self._changed:
            client = self._clients.get(peer)
            if client is None:
                return Delivery.GONE
            if len(client.inbox) >= self.high_water_mark:
                return Delivery.DROPPED
            client.inbox.append(list(frames))
            self._changed.notify_all()
            return Delivery.SENT

    def wake(self) -> None:
        """See ServerTransport."""
        with self._changed:
            self._woken = True
            self._changed.notify_all()

    def close(self) -> None:
        """See ServerTransport."""
        with self._changed:
            self._clients.clear()
            self._inbox.clear()

    def _accept(self, peer: bytes, frames: Sequence[Frame]) -> bool:
        with self._changed:
            if peer not in self._clients or len(self._inbox) >= self.high_water_mark:
                return False
            self._inbox.append((peer, list(frames)))
            self._changed.notify_all()
            return True

    def _forget(self, peer: bytes) -> None:
        with self._changed:
            self._clients.pop(peer, None)


class MemoryClient:
    """The daemon's end, made by `MemoryServer.connect`."""

    def __init__(self, server: MemoryServer, peer: bytes) -> None:
        self.inbox: deque[list[Frame]] = deque()
        self._server = server
        self._peer = peer

    def receive(self, timeout: float) -> list[Frame] | None:
        """See ClientTransport."""
        changed = self._server._changed
        with changed:
            changed.wait_for(lambda: self.inbox, timeout)
            return self.inbox.popleft() if self.inbox else None

    def send(self, frames: Sequence[Frame]) -> bool:
        """See ClientTransport."""
        return self._server._accept(self._peer, frames)

    def close(self) -> None:
        """See ClientTransport."""
        self._server._forget(self._peer)
