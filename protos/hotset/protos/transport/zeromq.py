"""ZeroMQ transport: the runtime binds a ROUTER socket, each daemon connects a DEALER.

`ipc://` relies on its folder being closed to other users (see `discovery.runtime_dir`). `tcp://` needs CURVE
keys on both sides, and the server serves only the public keys on its allow-list.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Sequence
from pathlib import Path

import zmq
from zmq.utils import z85
from zmq.utils.monitor import parse_monitor_message

from hotset.protos.errors import ProtocolError
from hotset.protos.transport.base import HIGH_WATER_MARK, Delivery, Sender
from hotset.protos.transport.keys import CurveKeys
from hotset.protos.wire import MAX_MESSAGE_BYTES, Frame

MAX_IPC_PATH = 107  # sun_path of Linux, less the closing zero
LINGER_MS = 300
_ZAP_ENDPOINT = "inproc://zeromq.zap.01"
_TROUBLE: dict[int, str] = {
    zmq.Event.HANDSHAKE_SUCCEEDED: "",
    zmq.Event.CONNECTED: "it accepts the connection and says nothing",
    zmq.Event.HANDSHAKE_FAILED_AUTH: "it refuses our key",
    zmq.Event.HANDSHAKE_FAILED_NO_DETAIL: "it has another key than the server.key we trust, or is no hotset process",
    zmq.Event.HANDSHAKE_FAILED_PROTOCOL: "one side has keys and the other has none, or it is no hotset process",
    zmq.Event.CLOSED: "nobody listens there",
}
_HANDSHAKES = frozenset(_TROUBLE) - {zmq.Event.CONNECTED, zmq.Event.CLOSED}


class ZmqServer:
    """Binds on creation. Raises ProtocolError if the endpoint may not or cannot be bound."""

    def __init__(self, endpoint: str, *, keys: CurveKeys | None = None, high_water_mark: int = HIGH_WATER_MARK) -> None:
        check_endpoint(endpoint, keys)
        self._context = zmq.Context()
        self._last: zmq.Frame | None = None
        self._zap: _AllowList | None = None
        self._wake_in, self._wake_out = socket.socketpair()
        self._wake_in.setblocking(False)
        self._wake_out.setblocking(False)
        try:
            self._socket = self._bind(endpoint, keys, high_water_mark)
        except ProtocolError:
            self._release()
            raise
        self.endpoint = str(self._socket.getsockopt_string(zmq.LAST_ENDPOINT))
        self._poller = zmq.Poller()
        self._poller.register(self._socket, zmq.POLLIN)
        self._poller.register(self._wake_out.fileno(), zmq.POLLIN)

    def _bind(self, endpoint: str, keys: CurveKeys | None, high_water_mark: int) -> zmq.Socket[bytes]:
        bound = self._context.socket(zmq.ROUTER)
        _bound_queues(bound, high_water_mark)
        bound.setsockopt(zmq.ROUTER_MANDATORY, 1)
        if keys is not None:
            self._zap = _AllowList(self._context, keys.trusted)
            bound.curve_secretkey, bound.curve_publickey, bound.curve_server = keys.secret, keys.public, True
        try:
            bound.bind(endpoint)
        except zmq.ZMQError as error:
            bound.close(0)
            raise ProtocolError(f"cannot listen at {endpoint}: {error}") from None
        return bound

    def receive(self, timeout: float) -> tuple[bytes, list[Frame]] | None:
        """See ServerTransport."""
        ready = dict(self._poller.poll(int(timeout * 1000)))
        if self._wake_out.fileno() in ready:
            with contextlib.suppress(BlockingIOError):
                self._wake_out.recv(4096)
        if self._socket not in ready:
            return None
        try:
            peer, *frames = self._socket.recv_multipart(zmq.NOBLOCK, copy=False)
        except zmq.Again:
            return None
        self._last = peer
        return peer.bytes, [frame.buffer for frame in frames]

    def sender(self) -> Sender | None:
        """See ServerTransport."""
        return None if self._last is None or not self.endpoint.startswith("ipc://") else _sender(self._last)

    def send(self, peer: bytes, frames: Sequence[Frame]) -> Delivery:
        """See ServerTransport."""
        try:
            self._socket.send_multipart([peer, *frames], zmq.NOBLOCK, copy=False)
        except zmq.Again:
            return Delivery.DROPPED
        except zmq.ZMQError:
            # EHOSTUNREACH: nobody answers to this id any more.
            return Delivery.GONE
        return Delivery.SENT

    def wake(self) -> None:
        """See ServerTransport."""
        # A full pipe means that a wake-up is already on its way; a closed one, that nobody sleeps.
        with contextlib.suppress(OSError):
            self._wake_in.send(b"\0")

    def close(self) -> None:
        """See ServerTransport."""
        if not self._socket.closed:
            self._socket.close(LINGER_MS)
            if self.endpoint.startswith("ipc://"):
                Path(self.endpoint.removeprefix("ipc://")).unlink(missing_ok=True)
            self._release()

    def _release(self) -> None:
        if self._zap is not None:
            self._zap.close()
        self._context.term()
        self._wake_in.close()
        self._wake_out.close()


class ZmqClient:
    """Connects on creation; ZeroMQ reconnects by itself. Raises ProtocolError for a bad endpoint."""

    def __init__(
        self,
        endpoint: str,
        *,
        keys: CurveKeys | None = None,
        high_water_mark: int = HIGH_WATER_MARK,
        monitored: bool = False,
    ) -> None:
        """`monitored` is for `trouble`."""
        self._trouble, self._shook = _TROUBLE[zmq.Event.CLOSED], False
        check_endpoint(endpoint, keys)
        _check_owner(endpoint)
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.DEALER)
        _bound_queues(self._socket, high_water_mark)
        try:
            if keys is not None:
                self._socket.curve_secretkey, self._socket.curve_publickey = keys.secret, keys.public
                (self._socket.curve_serverkey,) = keys.trusted
            # Not for long-lived clients: a monitor that nobody reads in the end holds up ZeroMQ's I/O thread.
            self._monitor = self._socket.get_monitor_socket() if monitored else None
            self._socket.connect(endpoint)
        except (zmq.ZMQError, ValueError) as error:
            self._socket.close(0)
            self._context.destroy(0)
            raise ProtocolError(f"cannot connect to {endpoint}: {error}") from None

    def trouble(self) -> str:
        """Why a monitored client has no connection, in words for a person; empty if it has one."""
        while self._monitor is not None and self._monitor.poll(0):
            event = int(parse_monitor_message(self._monitor.recv_multipart())["event"])
            shook = event in _HANDSHAKES
            # ZeroMQ tries again and again: that it connected once more does not unsay how the handshake ended.
            if event in _TROUBLE and (shook or not self._shook):
                self._trouble, self._shook = _TROUBLE[event], shook
        return self._trouble

    def receive(self, timeout: float) -> list[Frame] | None:
        """See ClientTransport."""
        if not self._socket.poll(int(timeout * 1000)):
            return None
        try:
            return [frame.buffer for frame in self._socket.recv_multipart(zmq.NOBLOCK, copy=False)]
        except zmq.Again:
            return None

    def send(self, frames: Sequence[Frame]) -> bool:
        """See ClientTransport."""
        try:
            self._socket.send_multipart(frames, zmq.NOBLOCK, copy=False)
        except zmq.Again:
            return False
        return True

    def close(self) -> None:
        """See ClientTransport."""
        if not self._socket.closed:
            if self._monitor is not None:
                self._socket.disable_monitor()
                self._monitor.close(0)
            self._socket.close(LINGER_MS)
            self._context.term()


def check_endpoint(endpoint: str, keys: CurveKeys | None) -> None:
    """Raise ProtocolError unless it is ipc:// with a short enough path, or tcp:// with CURVE keys."""
    if endpoint.startswith("ipc://"):
        length = len(os.fsencode(endpoint.removeprefix("ipc://")))
        if length > MAX_IPC_PATH:
            raise ProtocolError(
                f"the socket path of {endpoint} has {length} bytes and may have {MAX_IPC_PATH}; "
                "set HOTSET_RUNTIME_DIR to a shorter folder"
            )
    elif not endpoint.startswith("tcp://"):
        raise ProtocolError(f"{endpoint} is neither ipc:// nor tcp://")
    elif keys is None:
        raise ProtocolError(f"{endpoint} needs CURVE keys: tcp without them is refused")


def _check_owner(endpoint: str) -> None:
    """Raise ProtocolError if the socket's file belongs to somebody who is neither this user nor root."""
    if endpoint.startswith("ipc://"):
        with contextlib.suppress(OSError):
            owner = Path(endpoint.removeprefix("ipc://")).lstat().st_uid
            if owner not in (os.getuid(), 0):
                raise ProtocolError(f"{endpoint} belongs to user {owner}, not to you")


def _sender(frame: zmq.Frame) -> Sender | None:
    # libzmq appends what SO_PEERCRED says of a unix socket's other end: "localhost:uid:gid:pid".
    try:
        _, user, _, pid = str(frame.get("Peer-Address")).split(":")
        return Sender(int(user), int(pid))
    except (zmq.ZMQError, ValueError):
        return None


def _bound_queues(bounded: zmq.Socket[bytes], high_water_mark: int) -> None:
    bounded.setsockopt(zmq.SNDHWM, high_water_mark)
    bounded.setsockopt(zmq.RCVHWM, high_water_mark)
    bounded.setsockopt(zmq.MAXMSGSIZE, MAX_MESSAGE_BYTES)
    # Also for whoever is dropped without `close`: ZeroMQ's default waits for ever for a peer that does not read.
    bounded.setsockopt(zmq.LINGER, LINGER_MS)


class _AllowList:
    """Answers ZeroMQ's authentication requests (RFC 27, ZAP): only trusted public keys may connect."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], trusted: frozenset[bytes]) -> None:
        self._trusted = {z85.decode(key) for key in trusted}
        self._socket = context.socket(zmq.REP)
        self._socket.setsockopt(zmq.RCVTIMEO, 200)
        self._socket.bind(_ZAP_ENDPOINT)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._answer, name="hotset-zap", daemon=True)
        self._thread.start()

    def _answer(self) -> None:
        while not self._stop.is_set():
            try:
                version, request, _domain, _address, _identity, mechanism, *keys = self._socket.recv_multipart()
            except zmq.Again:
                continue
            good = mechanism == b"CURVE" and len(keys) == 1 and keys[0] in self._trusted
            verdict = [b"200", b"OK"] if good else [b"400", b"unknown key"]
            self._socket.send_multipart([version, request, *verdict, b"", b""])
        self._socket.close(0)

    def close(self) -> None:
        self._stop.set()
        self._thread.join()
