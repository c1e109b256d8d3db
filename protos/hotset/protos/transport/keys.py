"""CURVE keys of `tcp://` endpoints: a folder of ZeroMQ certificate files, made by `hotset keys`.

`server.key_secret` is the decode process's own; every other `*.key` in its folder is a public key that may connect (the
allow-list). A client's folder needs its own `client.key_secret` and the server's public `server.key`.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import zmq.auth

from hotset.protos.errors import ProtocolError

SERVER, CLIENT = "server", "client"


@dataclass(frozen=True)
class CurveKeys:
    """Own key pair, and the public keys to trust: a server's allow-list, or a client's one server."""

    public: bytes
    secret: bytes
    trusted: frozenset[bytes]

    @classmethod
    def load(cls, own: Path, trusted: Sequence[Path]) -> CurveKeys:
        """Read ZeroMQ certificate files.

        Raises ProtocolError if a file is missing, not a certificate, or `own` holds no secret key.
        """
        public, secret = _certificate(own)
        if secret is None:
            raise ProtocolError(f"{own} holds no secret key; name the .key_secret file")
        return cls(public, secret, frozenset(_certificate(path)[0] for path in trusted))


def make_keys(folder: Path, name: str) -> list[Path]:
    """Make the pair `name.key` (0644) and `name.key_secret` (0600) in `folder`, itself made (0700) if need be.

    Raises ProtocolError if one of the files is there already or cannot be written.
    """
    public, secret = folder / f"{name}.key", folder / f"{name}.key_secret"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for path in (public, secret):
            if path.exists():
                raise ProtocolError(f"{path} exists; remove it, or choose another folder")
        # Nobody may read the secret, not even for the moment before its mode is set.
        before = os.umask(0o077)
        try:
            zmq.auth.create_certificates(str(folder), name)
        finally:
            os.umask(before)
        public.chmod(0o644)
    except OSError as error:
        raise ProtocolError(f"cannot write keys to {folder}: {error.strerror}") from None
    return [public, secret]


def server_keys(folder: Path) -> CurveKeys:
    """A decode process's keys, and its allow-list. Raises ProtocolError if others may read or change either."""
    own = _private(folder, SERVER)
    if folder.stat().st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise ProtocolError(f"others may add keys to the allow-list in {folder}: chmod go-w it")
    allowed = [path for path in sorted(folder.glob("*.key")) if path.stem != SERVER]
    if not allowed:
        raise ProtocolError(f"{folder} holds no public key that may connect; copy a client's .key there")
    return CurveKeys.load(own, allowed)


def client_keys(folder: Path) -> CurveKeys:
    """A daemon's or person's keys, and those of the server to trust. Raises ProtocolError if others may read them."""
    return CurveKeys.load(_private(folder, CLIENT), [folder / f"{SERVER}.key"])


def _private(folder: Path, name: str) -> Path:
    path = folder / f"{name}.key_secret"
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise ProtocolError(f"no key at {path}: {error.strerror}; `hotset keys` makes them") from None
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise ProtocolError(f"others may read {path}: chmod 600 it")
    return path


def _certificate(path: Path) -> tuple[bytes, bytes | None]:
    try:
        public, secret = zmq.auth.load_certificate(str(path))
    except (OSError, ValueError) as error:
        raise ProtocolError(f"{path} is not a CURVE certificate: {error}") from None
    return public, secret
