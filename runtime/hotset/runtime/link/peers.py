"""Who is attached and who holds the lease. Pure state: no sockets, no clock of its own."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass

from hotset.protos.rate import Bucket

MAX_CONNECTIONS = 1024


@dataclass
class Peer:
    """One connection, from its first message on."""

    id: bytes
    messages: Bucket
    traffic: Bucket
    name: str = ""
    attached: bool = False
    banned: bool = False
    revoked: bool = False
    wants_snapshot: bool = False
    sent: int = 0
    """Sequence number of the newest message addressed to this peer, delivered or dropped."""
    heard_at: float = 0.0
    plan_number: int = -1
    model_number: int = -1


class Peers:
    """All connections, the newest `MAX_CONNECTIONS` of those that never attached, and the one lease."""

    def __init__(self, *, lease_seconds: float, messages_per_second: float, bytes_per_second: float) -> None:
        self.lease_seconds = lease_seconds
        self.controller: Peer | None = None
        self._messages_per_second = messages_per_second
        self._bytes_per_second = bytes_per_second
        self._peers: OrderedDict[bytes, Peer] = OrderedDict()

    def connection(self, peer_id: bytes) -> Peer:
        """The peer of this id, which may be new."""
        peer = self._peers.get(peer_id)
        if peer is None:
            messages = Bucket(self._messages_per_second, 2 * self._messages_per_second)
            traffic = Bucket(self._bytes_per_second, 2 * self._bytes_per_second)
            peer = self._peers[peer_id] = Peer(peer_id, messages, traffic)
            self._shrink()
        return peer

    def attached(self) -> list[Peer]:
        """Everybody who receives steps."""
        return [peer for peer in self._peers.values() if peer.attached]

    def lease(self, peer: Peer, now: float) -> bool:
        """Give the lease to `peer` if it is free (or already its own); False if another holds it."""
        self.expire(now)
        if peer.revoked or self.controller not in (None, peer):
            return False
        self.controller = peer
        peer.heard_at = now
        return True

    def expire(self, now: float) -> Peer | None:
        """Free the lease of a controller that has been silent for too long, and return it."""
        holder = self.controller
        if holder is None or now - holder.heard_at <= self.lease_seconds:
            return None
        self.controller = None
        return holder

    def forget(self, peer: Peer) -> None:
        """The connection is gone, and its lease with it."""
        self._peers.pop(peer.id, None)
        self.release(peer)

    def ban(self, peer: Peer) -> None:
        """Never listen to this connection again."""
        peer.banned, peer.attached = True, False
        self.release(peer)

    def release(self, peer: Peer) -> None:
        """Free the lease if `peer` holds it."""
        if self.controller is peer:
            self.controller = None

    def check_integrity(self) -> None:
        """Raise AssertionError if the lease is held by somebody who is not attached and welcome."""
        holder = self.controller
        if holder is not None:
            assert self._peers.get(holder.id) is holder, "the controller is not connected"
            assert holder.attached, "the controller is not attached"
            assert not holder.banned, "the controller is banned"
            assert not holder.revoked, "the controller was told to let go"
        assert len(list(self._strangers())) <= MAX_CONNECTIONS, "too many connections are remembered"

    def _strangers(self) -> Iterator[Peer]:
        return (peer for peer in self._peers.values() if not peer.attached)

    def _shrink(self) -> None:
        if len(self._peers) > MAX_CONNECTIONS and (oldest := next(self._strangers(), None)):
            del self._peers[oldest.id]
