"""What a transport must do. One thread owns each end; only `wake` may be called from another."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import NamedTuple, Protocol

from hotset.protos.wire import Frame

HIGH_WATER_MARK = 256


class Delivery(Enum):
    """What became of a message that a server sent."""

    SENT = "sent"
    DROPPED = "dropped"
    """The peer's queue is at the high-water mark. The peer is there, but slow or stopped."""
    GONE = "gone"
    """There is no such peer any more."""


class Sender(NamedTuple):
    """Who is at the other end of a local connection, as the kernel knows it."""

    user: int
    pid: int
    """0 if it runs in another pid namespace"""


class ServerTransport(Protocol):
    """The runtime's end: it binds once and talks to any number of peers, each known by an opaque id."""

    @property
    def endpoint(self) -> str:
        """Where clients connect to."""

    def receive(self, timeout: float) -> tuple[bytes, list[Frame]] | None:
        """The next message and its sender; None after `timeout` seconds or after `wake`."""

    def sender(self) -> Sender | None:
        """Who sent the message that `receive` returned last; None where no kernel vouches for it."""

    def send(self, peer: bytes, frames: Sequence[Frame]) -> Delivery:
        """Queue a message whole or not at all; never blocks. The frames must not change afterwards."""

    def wake(self) -> None:
        """Make a `receive` that waits return. The one method that any thread may call."""

    def close(self) -> None:
        """Release sockets and files; a second call does nothing."""


class ClientTransport(Protocol):
    """The daemon's end of one connection."""

    def receive(self, timeout: float) -> list[Frame] | None:
        """The next message, or None after `timeout` seconds."""

    def send(self, frames: Sequence[Frame]) -> bool:
        """Queue a message, or return False if the queue is full; never blocks."""

    def close(self) -> None:
        """Release the socket; a second call does nothing."""
