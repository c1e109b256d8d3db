"""One conversation with a runtime: numbers what goes out, sees the gaps in what comes in."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from typing import Literal, NamedTuple

from hotset.protos.errors import ProtocolError
from hotset.protos.messages import Attach, Message
from hotset.protos.rate import Bucket
from hotset.protos.transport import ClientTransport
from hotset.protos.wire import Frame, UnknownTypeError, decode, encode

MESSAGES_PER_SECOND = 20_000.0
BYTES_PER_SECOND = float(1 << 31)
"""What a runtime may send, in bursts of twice as much: more than any decoder has to tell, and bounded."""


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
        self._messages = Bucket(MESSAGES_PER_SECOND, 2 * MESSAGES_PER_SECOND)
        self._traffic = Bucket(BYTES_PER_SECOND, 2 * BYTES_PER_SECOND)

    def attach(self, role: Literal["controller", "observer"]) -> bool:
        """Ask for steps; the answer is a Hello."""
        return self.send(Attach(peer=self.name, pid=os.getpid(), role=role))

    def send(self, message: Message) -> bool:
        """Queue a message; False if the queue is full. Never blocks."""
        self._sent += 1
        return self._client.send(encode(message, self._sent))

    def receive(self, timeout: float) -> Received | None:
        """The next message of a type that we know, None after `timeout` seconds.

        Raises ProtocolError for what is malformed, and for more messages or bytes a second than a runtime may send.
        """
        frames = self._client.receive(timeout)
        if frames is None:
            return None
        self._check_rate(frames)
        try:
            number, message = decode(frames)
        except UnknownTypeError:
            # Newer runtimes may say more; the number of what we skip shows as a gap of one, which heals.
            return None
        # A number that went back means that the runtime greets us anew after a reconnect.
        missing = 0 if self._last is None or number <= self._last else number - self._last - 1
        self._last = number
        return Received(message, missing)

    def _check_rate(self, frames: Sequence[Frame]) -> None:
        now, size = time.monotonic(), sum(len(frame) for frame in frames)
        if not self._messages.take(1, now) or not self._traffic.take(size, now):
            raise ProtocolError("the runtime sends too many messages or bytes a second")

    def close(self) -> None:
        """Release the transport."""
        self._client.close()
