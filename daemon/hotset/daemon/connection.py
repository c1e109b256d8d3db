"""One conversation with a runtime: numbers what goes out, sees the gaps in what comes in."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal, NamedTuple

from hotset.protos.messages import Attach, Message
from hotset.protos.transport import ClientTransport, CurveKeys
from hotset.protos.wire import UnknownTypeError, decode, encode


def client_keys(folder: Path) -> CurveKeys:
    """A client's CURVE keys: `client.key_secret` and the runtime's `server.key` in `folder`.

    Raises ProtocolError if a file is missing or no certificate.
    """
    return CurveKeys.load(folder / "client.key_secret", [folder / "server.key"])


class Received(NamedTuple):
    """A message, and how many were lost right before it."""

    message: Message
    missing: int


class Connection:
    """Not thread-safe: one thread owns it."""

    def __init__(self, client: ClientTransport, name: str) -> None:
        self.name = name
        self._client = client
        self._sent = 0
        self._last: int | None = None

    def attach(self, role: Literal["controller", "observer"]) -> bool:
        """Ask for steps; the answer is a Hello."""
        return self.send(Attach(peer=self.name, pid=os.getpid(), role=role))

    def send(self, message: Message) -> bool:
        """Queue a message; False if the queue is full. Never blocks."""
        self._sent += 1
        return self._client.send(encode(message, self._sent))

    def receive(self, timeout: float) -> Received | None:
        """The next message of a type that we know, None after `timeout` seconds. Raises ProtocolError."""
        frames = self._client.receive(timeout)
        if frames is None:
            return None
        try:
            number, message = decode(frames)
        except UnknownTypeError:
            # Newer runtimes may say more; the number of what we skip shows as a gap of one, which heals.
            return None
        # A number that went back means that the runtime greets us anew after a reconnect.
        missing = 0 if self._last is None or number <= self._last else number - self._last - 1
        self._last = number
        return Received(message, missing)

    def close(self) -> None:
        """Release the transport."""
        self._client.close()
