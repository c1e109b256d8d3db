"""What `ps`, `attach` and `detach` share: finding a runtime, and asking it who it is."""

from __future__ import annotations

import time
from typing import TypeVar

from hotset.daemon.connection import Connection
from hotset.protos import discovery
from hotset.protos.discovery import RuntimeFile
from hotset.protos.errors import ConfigError, ProtocolError
from hotset.protos.messages import Detach, Error, Hello, Message
from hotset.protos.transport import CurveKeys, ZmqClient

ANSWER_SECONDS = 2.0
M = TypeVar("M", bound=Message)


def running() -> list[RuntimeFile]:
    """Decode processes of this user that run now."""
    return discovery.find_runtimes(discovery.runtime_dir())


def endpoint_of(target: str) -> str:
    """The endpoint of a pid, or `target` itself if it is one. Raises ConfigError if nothing decodes there."""
    if "://" in target:
        return target
    if not target.isdigit():
        raise ConfigError(f"{target!r} is neither a pid nor an endpoint such as ipc:///run/user/1000/x.sock")
    for entry in running():
        if entry.pid == int(target):
            return entry.endpoint
    raise ConfigError(f"no decode process {target}; `hotset ps` lists those that run")


def connect(endpoint: str, keys: CurveKeys | None = None) -> Connection:
    """A connection for a person at a terminal."""
    return Connection(ZmqClient(endpoint, keys=keys), "hotset-cli")


def greet(connection: Connection, endpoint: str) -> Hello:
    """Attach as an observer. Raises ProtocolError if nobody answers or the runtime refuses."""
    connection.attach("observer")
    answer = wait_for(connection, Hello)
    if answer is None:
        raise ProtocolError(f"{endpoint} does not answer; is the process stopped, or another version?")
    return answer


def wait_for(connection: Connection, kind: type[M], of: str = "") -> M | None:
    """The next message of `kind` (with `of`: whose field `of` says so), None if it does not come.

    Raises ProtocolError if the runtime sends an error.
    """
    end = time.monotonic() + ANSWER_SECONDS
    while (left := end - time.monotonic()) > 0:
        received = connection.receive(left)
        if received is None:
            continue
        if isinstance(received.message, kind) and of in ("", getattr(received.message, "of", "")):
            return received.message
        if isinstance(received.message, Error):
            raise ProtocolError(f"the runtime refused: {received.message.reason} ({received.message.code})")
    return None


def inspect(entry: RuntimeFile) -> Hello | None:
    """Ask a local runtime about itself; None if it does not answer."""
    connection = connect(entry.endpoint)
    try:
        return greet(connection, entry.endpoint)
    except ProtocolError:
        return None
    finally:
        connection.send(Detach())
        connection.close()
