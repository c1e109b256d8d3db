"""Sends garbage over the real socket, each few messages from a peer of its own: one bad message ends a peer."""

from __future__ import annotations

import contextlib
import socket
from collections import Counter
from collections.abc import Sequence

import zmq
from garbage import Frames, Garbage

from hotset.daemon.session import FINAL_ERRORS
from hotset.protos.errors import ProtocolError
from hotset.protos.messages import Error
from hotset.protos.wire import decode

PEERS = 50
ANSWER_MS = 20_000
MESSAGES = 4
"""Of one peer: about so many are read until one ends the connection."""


class Attacker:
    """`attack` works in waves, so that the victim reads what one wave has sent before the next comes."""

    def __init__(self, endpoint: str, seed: int) -> None:
        self.sent = 0
        self.frames = 0
        self.errors: Counter[str] = Counter()
        """Codes of the errors with which the victim answered."""
        self._endpoint = endpoint
        self._garbage = Garbage(seed)
        self._context = zmq.Context()

    def attack(self, messages: int) -> None:
        """Send so many messages from ever new peers."""
        goal = self.sent + messages
        while self.sent < goal:
            wave = [self._peer(self._garbage.batch(MESSAGES)) for _ in range(PEERS)]
            try:
                for peer in wave:
                    self._hear(peer)
            finally:
                for peer in wave:
                    peer.close(0)
            _raw_bytes(self._endpoint.removeprefix("ipc://"), self._garbage.noise())

    def close(self) -> None:
        """Release the sockets."""
        self._context.term()

    def _peer(self, messages: Sequence[Frames]) -> zmq.Socket[bytes]:
        peer = self._context.socket(zmq.DEALER)
        peer.connect(self._endpoint)
        # The last of them surely ends the peer, and its answer says that all before were read.
        for frames in (*messages, [b"end"]):
            peer.send_multipart(frames, copy=False)
            self.sent += 1
            self.frames += len(frames)
        return peer

    def _hear(self, peer: zmq.Socket[bytes]) -> None:
        """Read answers until the one that ends the peer."""
        while True:
            assert peer.poll(ANSWER_MS), "the victim does not answer"
            try:
                _, answer = decode(peer.recv_multipart())
            except ProtocolError as error:
                raise AssertionError("the victim itself sends what breaks the protocol") from error
            if isinstance(answer, Error):
                self.errors[answer.code] += 1
                if answer.code in FINAL_ERRORS - {"revoked"}:
                    return


def _raw_bytes(path: str, frames: Frames) -> None:
    """Bytes that are not even ZeroMQ's."""
    with socket.socket(socket.AF_UNIX) as raw, contextlib.suppress(OSError):
        raw.connect(path)
        raw.sendall(b"".join(frames))
