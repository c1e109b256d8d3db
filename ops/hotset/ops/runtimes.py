"""What `ps`, `attach`, `detach` and `top` share: finding a runtime, and asking it who it is."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, TypeVar

from hotset.daemon.connection import Connection
from hotset.protos import discovery
from hotset.protos.discovery import RuntimeFile
from hotset.protos.errors import ConfigError, HotsetError, ProtocolError
from hotset.protos.messages import Detach, Error, Hello, Message
from hotset.protos.transport import CurveKeys, ZmqClient

ANSWER_SECONDS = 2.0
M = TypeVar("M", bound=Message)


class NotAnsweringError(HotsetError):
    """Nobody answers at an endpoint, or nobody any more."""

    exit_code = 7


class Answer(NamedTuple):
    """What a runtime said to a question who it is: its `hello`, or why there is none."""

    hello: Hello | None
    trouble: str = ""


def running() -> list[RuntimeFile]:
    """Decode processes of this user that run now."""
    return discovery.find_runtimes(discovery.runtime_dir())


def endpoint_of(target: str) -> str:
    """The endpoint of a pid, or `target` itself if it is one. Raises ConfigError if nothing decodes there."""
    if "://" in target:
        return target
    if not target.isdigit():
        raise ConfigError(f"{target!r} is neither a pid nor an endpoint such as ipc:///run/user/1000/x.sock")
    found = [entry.endpoint for entry in running() if entry.pid == int(target)]
    if not found:
        raise ConfigError(f"no decode process {target}: {_why_not(int(target))}; `hotset ps` lists those that run")
    if len(found) > 1:
        raise ConfigError(f"process {target} has several runtimes; name one of {', '.join(found)}")
    return found[0]


def _why_not(pid: int) -> str:
    if discovery.process_start_time(pid) is None:
        return "there is no such process"
    try:
        owner = Path(f"/proc/{pid}").stat().st_uid
    except OSError:
        return "it publishes nothing here"
    if owner != os.getuid():
        return f"it belongs to user {owner}"
    return f"it publishes nothing in {discovery.runtime_dir()}"


def connect(endpoint: str, keys: CurveKeys | None = None) -> tuple[Connection, ZmqClient]:
    """A connection for a person at a terminal. Raises ProtocolError if it needs keys or is somebody else's."""
    client = ZmqClient(endpoint, keys=keys, monitored=True)
    return Connection(client, "hotset-cli"), client


@contextmanager
def observing(target: str, keys: CurveKeys | None = None) -> Iterator[tuple[Connection, Hello]]:
    """Attach to a pid or an endpoint as an observer, for as long as the context lasts.

    Raises ConfigError if there is no such process, NotAnsweringError if nobody answers, ProtocolError if it refuses.
    """
    endpoint = endpoint_of(target)
    connection, client = connect(endpoint, keys)
    try:
        connection.attach("observer")
        hello = wait_for(connection, Hello)
        if hello is None:
            why = client.trouble() or "its process is stopped or busy"
            raise NotAnsweringError(f"{endpoint} does not answer: {why}")
        yield connection, hello
    finally:
        connection.send(Detach(reason="done"))
        connection.close()


def wait_for(connection: Connection, kind: type[M], of: str = "", seconds: float = ANSWER_SECONDS) -> M | None:
    """The next message of `kind` (with `of`: whose field `of` says so), None if it does not come in time.

    Raises ProtocolError if the runtime sends an error.
    """
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        received = connection.receive(left)
        if received is None:
            continue
        if isinstance(received.message, kind) and of in ("", getattr(received.message, "of", "")):
            return received.message
        if isinstance(received.message, Error):
            raise ProtocolError(f"the runtime refused: {received.message.reason} ({received.message.code})")
    return None


def inspect(endpoints: Sequence[str], keys: CurveKeys | None = None) -> list[Answer]:
    """Ask runtimes about themselves, all at once: those that do not answer cost their time together."""
    asked = [_ask(endpoint, keys) for endpoint in endpoints]
    end = time.monotonic() + ANSWER_SECONDS
    return [one if isinstance(one, Answer) else _hear(*one, end) for one in asked]


def _ask(endpoint: str, keys: CurveKeys | None) -> Answer | tuple[Connection, ZmqClient]:
    try:
        connection, client = connect(endpoint, keys if endpoint.startswith("tcp://") else None)
    except ProtocolError as error:
        return Answer(None, str(error))
    connection.attach("observer")
    return connection, client


def _hear(connection: Connection, client: ZmqClient, end: float) -> Answer:
    try:
        hello = wait_for(connection, Hello, seconds=max(0.05, end - time.monotonic()))
        return Answer(hello, "" if hello else client.trouble() or "its process is stopped or busy")
    except ProtocolError as error:
        return Answer(None, str(error))
    finally:
        connection.send(Detach())
        connection.close()
