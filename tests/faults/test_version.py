"""A peer or a runtime of another protocol version: refused with the reason, and nobody else notices."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from liar import Liar
from sandbox import Hotset, planned, until
from witness import Witness

from hotset.protos.messages import PROTOCOL_VERSION, Attach, Error, Message
from hotset.protos.transport import ZmqClient
from hotset.protos.wire import decode, encode

pytestmark = pytest.mark.e2e
NEWER = PROTOCOL_VERSION + 1


def test_either_side_of_another_version(hotset: Hotset, trace: Path, witness: Callable[[str], Witness]) -> None:
    daemon = hotset.daemon()
    engine = hotset.start("play", trace, "--speed", 50, "--times", 200, "--check")
    ear = witness(hotset.endpoint(engine))
    ear.hears(plans=5)
    refused = _answer(hotset.endpoint(engine), Attach(peer="newer", pid=1, protocol=NEWER))
    assert isinstance(refused, Error)
    assert (refused.code, f"the peer {NEWER}" in refused.reason) == ("version", True)
    with Liar(hotset.runtime, 1) as newer:
        newer.greet(NEWER)
        until(lambda: f"speaks protocol {NEWER}, this daemon {PROTOCOL_VERSION}" in hotset.said(daemon))
        until(lambda: f"event=session_ended session={newer.session}" in hotset.said(daemon))
    ear.hears(plans=20)
    until(lambda: planned(hotset.statuses()[0]) > 20)
    (status,) = hotset.statuses()
    assert (status["role"], status["model"]) == ("controller", "tiny")
    assert daemon.poll() is None


def _answer(endpoint: str, message: Message) -> Message:
    client = ZmqClient(endpoint)
    client.send(encode(message, 1))
    frames = client.receive(10)
    client.close()
    assert frames is not None
    return decode(frames)[1]
