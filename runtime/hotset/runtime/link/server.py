"""The rules of the runtime's side of the protocol, on one thread: who may attach, plan, and hear what."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass

from hotset.protos.discovery import process_numbers
from hotset.protos.errors import ProtocolError
from hotset.protos.messages import (
    PROTOCOL_VERSION,
    Ack,
    Advice,
    Attach,
    Detach,
    Error,
    Heartbeat,
    Hello,
    Lookahead,
    Message,
    Model,
    Plan,
    Snapshot,
    SnapshotRequest,
    Step,
)
from hotset.protos.transport import Delivery, Sender, ServerTransport
from hotset.protos.wire import Frame, UnknownTypeError, decode, encode
from hotset.runtime.link.mailbox import LinkCounters, Mailbox
from hotset.runtime.link.peers import Peer, Peers


@dataclass(frozen=True)
class LinkLimits:
    """What a peer may do before it is dropped."""

    lease_seconds: float = 8.0
    peers: int = 64
    messages_per_second: float = 2000.0
    bytes_per_second: float = float(1 << 28)
    outbox: int = 256
    """Messages that wait for the I/O thread before `publish` drops."""


class LinkServer:
    """Answers peers and sends to them. `hello` fills in the state of the moment for a peer that attaches."""

    def __init__(
        self,
        transport: ServerTransport,
        mailbox: Mailbox,
        counters: LinkCounters,
        *,
        limits: LinkLimits,
        hello: Callable[[bool, str], Hello],
    ) -> None:
        self._transport = transport
        self._mailbox = mailbox
        self._counters = counters
        self._limits = limits
        self._hello = hello
        self._entries = 1 << 20
        self._advised: int | None = None
        """Number of the advice in force"""
        self._alone_since: float | None = None
        """Since when nobody has held the lease, while advice is in force"""
        self.peers = Peers(
            lease_seconds=limits.lease_seconds,
            messages_per_second=limits.messages_per_second,
            bytes_per_second=limits.bytes_per_second,
        )

    def handle(self, peer_id: bytes, frames: list[Frame], now: float) -> None:
        """Act on one message. A peer that breaks the protocol is told why and dropped; nobody else notices."""
        peer = self.peers.connection(peer_id)
        if peer.banned:
            return
        try:
            self._check_rate(peer, frames, now)
            _, message = decode(frames)
        except UnknownTypeError as error:
            self._counters.bad_frames += 1
            self._refuse(peer, "unknown_type", str(error))
        except ProtocolError as error:
            self._drop(peer, "malformed", str(error))
        else:
            peer.heard_at = now
            self._dispatch(peer, message, now)
        self._note()

    def broadcast(self, message: Message) -> None:
        """Send to everybody attached; a snapshot only to those who asked."""
        for peer in self.peers.attached():
            if isinstance(message, Snapshot):
                if not peer.wants_snapshot:
                    continue
                peer.wants_snapshot = False
            self._send(peer, message)

    def skip(self, messages: int) -> None:
        """Let every peer see a gap where `messages` could not even be queued."""
        for peer in self.peers.attached():
            peer.sent += messages

    def tick(self, now: float) -> None:
        """Expire the lease of a silent controller, and the advice of one that has long been gone."""
        holder = self.peers.expire(now)
        if holder is not None:
            self._mailbox.clear()
            self._refuse(holder, "lease_expired", f"silent for {self.peers.lease_seconds:g} s; attach again")
            self._note()
        if self.peers.controller is not None or self._advised is None:
            self._alone_since = None
        elif self._alone_since is None:
            self._alone_since = now
        elif now - self._alone_since >= self._limits.lease_seconds:
            # A restart or a takeover had its time. Nobody is there to take back what was a trial, say of few sequences.
            self._mailbox.put(Advice(number=self._advised, reason="nobody steers any more"))
            self._advised = None

    def _check_rate(self, peer: Peer, frames: list[Frame], now: float) -> None:
        size = sum(len(frame) for frame in frames)
        if not peer.messages.take(1, now) or not peer.traffic.take(size, now):
            raise ProtocolError("too many messages or bytes a second")

    def _dispatch(self, peer: Peer, message: Message, now: float) -> None:
        if isinstance(message, Attach):
            self._attach(peer, message, now)
        elif isinstance(message, Detach):
            self._detach(peer, message)
        elif not isinstance(message, SnapshotRequest | Heartbeat | Plan | Advice | Lookahead | Model):
            kind = type(message).model_fields["type"].default
            self._drop(peer, "wrong_direction", f"{kind} is for a runtime to send")
        elif not peer.attached:
            self._refuse(peer, "not_attached", "attach first")
        elif isinstance(message, SnapshotRequest):
            peer.wants_snapshot = self._mailbox.snapshot_wanted = True
        elif isinstance(message, Heartbeat):
            self._send(peer, Ack(of="heartbeat", number=0, accepted=True))
        elif peer is not self.peers.controller:
            self._counters.plans_refused += isinstance(message, Plan)
            self._refuse(peer, "not_controller", self._holder())
        elif isinstance(message, Plan):
            self._plan(peer, message)
        elif isinstance(message, Model):
            self._model(peer, message)
        else:
            if isinstance(message, Advice):
                self._advised = message.number
            self._mailbox.put(message)

    def _attach(self, peer: Peer, message: Attach, now: float) -> None:
        if message.protocol != PROTOCOL_VERSION:
            reason = f"this runtime speaks protocol {PROTOCOL_VERSION}, the peer {message.protocol}"
            self._drop(peer, "version", reason)
            return
        sender = self._transport.sender()
        if wrong := impostor(message.pid, sender):
            self._drop(peer, "wrong_sender", wrong)
            return
        if not peer.attached and len(self.peers.attached()) >= self._limits.peers:
            self._drop(peer, "too_many_peers", f"{self._limits.peers} peers are attached already")
            return
        # A container's process may claim any number of its own namespace; ours tells people which one it is.
        pid = message.pid if sender is None else sender.pid or message.pid
        peer.attached, peer.name = True, f"{message.peer} {pid}"[:256]
        before = self.peers.controller
        if message.role == "observer":
            self.peers.release(peer)
        leads = message.role == "controller" and self.peers.lease(peer, now)
        if self.peers.controller is not before:
            self._mailbox.clear()
            self._counters.lease_changes += 1
        holder = self.peers.controller
        self._send(peer, self._hello(leads, holder.name if holder else ""))
        if message.role == "controller" and not leads:
            code = "revoked" if peer.revoked else "lease_held"
            self._refuse(peer, code, self._holder())

    def _detach(self, peer: Peer, message: Detach) -> None:
        if message.target == "self":
            if peer is self.peers.controller:
                self._mailbox.clear()
            self.peers.forget(peer)
            return
        holder = self.peers.controller
        if holder is None:
            self._refuse(peer, "no_controller", "nobody holds the lease")
            return
        self.peers.release(holder)
        holder.revoked = True
        self._mailbox.clear()
        self._refuse(holder, "revoked", message.reason or "the lease was taken back on request")
        self._send(peer, Ack(of="detach", number=0, accepted=True, reason=f"{holder.name} let go"))

    def _plan(self, peer: Peer, plan: Plan) -> None:
        self._counters.plans_received += 1
        if max(len(plan.pages), len(plan.prefetch)) > self._entries:
            self._drop(peer, "too_large", f"a plan may hold {self._entries} entries here")
        elif plan.number <= peer.plan_number:
            self._counters.plans_refused += 1
            reason = f"the number must exceed {peer.plan_number}"
            self._send(peer, Ack(of="plan", number=plan.number, accepted=False, reason=reason))
        else:
            peer.plan_number = plan.number
            if (older := self._mailbox.put_plan(plan)) is not None:
                self._counters.plans_superseded += 1
                reason = f"superseded by {plan.number}"
                self._send(peer, Ack(of="plan", number=older.number, accepted=False, reason=reason))

    def _model(self, peer: Peer, model: Model) -> None:
        if model.number <= peer.model_number:
            self._refuse_model(peer, model, f"stale: the number must exceed {peer.model_number}")
            return
        peer.model_number = model.number
        if (older := self._mailbox.put_model(model)) is not None:
            self._refuse_model(peer, older, f"superseded: by {model.number}")

    def _refuse_model(self, peer: Peer, model: Model, reason: str) -> None:
        self._send(peer, Ack(of="model", number=model.number, accepted=False, reason=reason))

    def limit_entries(self, entries: int) -> None:
        """Plans with more values or prefetches than the pool has slots are hostile."""
        self._entries = entries

    def _holder(self) -> str:
        holder = self.peers.controller
        return f"{holder.name} holds the lease" if holder else "nobody holds the lease; attach to get it"

    def _refuse(self, peer: Peer, code: str, reason: str) -> None:
        self._send(peer, Error(code=code, reason=reason))

    def _drop(self, peer: Peer, code: str, reason: str) -> None:
        self._counters.bad_frames += 1
        if peer is self.peers.controller:
            self._mailbox.clear()
        self._refuse(peer, code, reason)
        self.peers.ban(peer)

    def _send(self, peer: Peer, message: Message) -> None:
        peer.sent += 1
        outcome = self._transport.send(peer.id, encode(message, peer.sent))
        if outcome is Delivery.GONE:
            if peer is self.peers.controller:
                self._mailbox.clear()
            self.peers.forget(peer)
            self._note()
        elif outcome is Delivery.DROPPED:
            if isinstance(message, Step):
                self._counters.peer_steps_dropped += 1
            else:
                self._counters.peer_messages_dropped += 1

    def _note(self) -> None:
        self._counters.peers = len(self.peers.attached())


def impostor(pid: int, sender: Sender | None) -> str:
    """What is wrong with a peer that claims to be process `pid` when the kernel says `sender`; empty if nothing."""
    if sender is None:
        return ""
    if sender.user not in (os.getuid(), 0):
        return f"this runtime belongs to user {os.getuid()}, the peer to user {sender.user}"
    if sender.pid not in (pid, 0) and pid not in process_numbers(sender.pid):
        return f"attach names process {pid}, the connection is that of process {sender.pid}"
    return ""
