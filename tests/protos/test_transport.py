"""One suite that every transport passes, and what is particular to ZeroMQ."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import zmq
import zmq.auth

from hotset.protos.errors import ProtocolError
from hotset.protos.transport import (
    ClientTransport,
    CurveKeys,
    Delivery,
    MemoryServer,
    Sender,
    ServerTransport,
    ZmqClient,
    ZmqServer,
)
from hotset.protos.wire import Frame

Connect = Callable[[], ClientTransport]
WAIT = 30.0


class Pair:
    """A server, a way to connect to it, and everything closed at the end."""

    def __init__(self, server: ServerTransport, connect: Connect) -> None:
        self.server = server
        self._connect = connect
        self._clients: list[ClientTransport] = []

    def connect(self) -> ClientTransport:
        self._clients.append(self._connect())
        return self._clients[-1]

    def introduce(self) -> tuple[ClientTransport, bytes]:
        client = self.connect()
        assert client.send([b"hello"])
        received = self.server.receive(WAIT)
        assert received is not None
        return client, received[0]

    def close(self) -> None:
        for client in self._clients:
            client.close()
        self.server.close()


@pytest.fixture(params=["memory", "ipc", "tcp"])
def pair(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Pair]:
    made = make_pair(request.param, tmp_path)
    yield made
    made.close()


def make_pair(kind: str, folder: Path) -> Pair:
    if kind == "memory":
        memory = MemoryServer(high_water_mark=8)
        return Pair(memory, memory.connect)
    if kind == "ipc":
        server = ZmqServer(f"ipc://{folder}/s", high_water_mark=8)
        return Pair(server, lambda: ZmqClient(server.endpoint, high_water_mark=8))
    mine, theirs = key_pairs()
    server = ZmqServer("tcp://127.0.0.1:*", keys=mine, high_water_mark=8)
    return Pair(server, lambda: ZmqClient(server.endpoint, keys=theirs, high_water_mark=8))


def key_pairs() -> tuple[CurveKeys, CurveKeys]:
    (public, secret), (client_public, client_secret) = zmq.curve_keypair(), zmq.curve_keypair()
    mine = CurveKeys(public, secret, frozenset({client_public}))
    return mine, CurveKeys(client_public, client_secret, frozenset({public}))


def plain(frames: list[Frame] | None) -> list[bytes] | None:
    return None if frames is None else [bytes(frame) for frame in frames]


def test_messages_arrive_whole_and_in_order(pair: Pair) -> None:
    client, peer = pair.introduce()
    big = np.arange(1 << 18, dtype="<i4")
    for i in range(4):
        assert pair.server.send(peer, [b"n", bytes([i]), big.data.cast("B"), b""]) is Delivery.SENT
    for i in range(4):
        assert plain(client.receive(WAIT)) == [b"n", bytes([i]), big.tobytes(), b""]


def test_peers_are_told_apart(pair: Pair) -> None:
    one, first = pair.introduce()
    two, second = pair.introduce()
    assert first != second
    pair.server.send(first, [b"to one"])
    pair.server.send(second, [b"to two"])
    assert plain(one.receive(WAIT)) == [b"to one"]
    assert plain(two.receive(WAIT)) == [b"to two"]
    assert two.send([b"from two"])
    received = pair.server.receive(WAIT)
    assert received is not None
    assert received[0] == second


def test_receive_gives_up_after_its_timeout(pair: Pair) -> None:
    client, _ = pair.introduce()
    assert client.receive(0.01) is None
    assert pair.server.receive(0.01) is None


def test_wake_ends_a_receive(pair: Pair) -> None:
    threading.Timer(0.05, pair.server.wake).start()
    start = time.monotonic()
    assert pair.server.receive(30) is None
    assert time.monotonic() - start < 20


def test_a_wake_before_receive_is_not_lost(pair: Pair) -> None:
    pair.server.wake()
    start = time.monotonic()
    assert pair.server.receive(30) is None
    assert time.monotonic() - start < 20


def test_send_to_a_slow_peer_drops_and_never_blocks(pair: Pair) -> None:
    client, peer = pair.introduce()
    payload = bytes(1 << 20)
    outcomes = [pair.server.send(peer, [bytes([i]), payload]) for i in range(200)]
    assert outcomes[0] is Delivery.SENT
    assert Delivery.DROPPED in outcomes
    assert Delivery.GONE not in outcomes
    sent = [i for i, outcome in enumerate(outcomes) if outcome is Delivery.SENT]
    for i in sent:
        frames = client.receive(WAIT)
        assert frames is not None
        assert bytes(frames[0]) == bytes([i])
    assert client.receive(0.05) is None


def test_a_peer_that_left_is_gone(pair: Pair) -> None:
    client, peer = pair.introduce()
    client.close()
    end = time.monotonic() + WAIT
    while pair.server.send(peer, [b"?"]) is not Delivery.GONE:
        assert time.monotonic() < end
        time.sleep(0.01)


def test_an_unknown_peer_is_gone(pair: Pair) -> None:
    assert pair.server.send(b"\0nobody", [b"?"]) is Delivery.GONE


def test_close_may_be_called_twice(pair: Pair) -> None:
    client, _ = pair.introduce()
    client.close()
    client.close()
    pair.server.close()
    pair.server.close()


def test_client_sends_drop_when_nobody_reads(tmp_path: Path) -> None:
    client = ZmqClient(f"ipc://{tmp_path}/nobody", high_water_mark=8)
    outcomes = [client.send([b"x"]) for _ in range(20)]
    client.close()
    assert outcomes[0]
    assert not outcomes[-1]


@pytest.mark.parametrize("make", [ZmqServer, ZmqClient])
def test_tcp_without_keys_is_refused(make: Callable[[str], object]) -> None:
    with pytest.raises(ProtocolError, match="needs CURVE keys"):
        make("tcp://127.0.0.1:5555")


@pytest.mark.parametrize("endpoint", ["udp://127.0.0.1:1", "inproc://x", "", "127.0.0.1:1"])
def test_other_endpoints_are_refused(endpoint: str) -> None:
    with pytest.raises(ProtocolError, match="neither ipc:// nor tcp://"):
        ZmqServer(endpoint)


def test_a_long_socket_path_names_the_remedy(tmp_path: Path) -> None:
    folder = tmp_path / ("x" * 107)
    with pytest.raises(ProtocolError, match="shorter folder"):
        ZmqServer(f"ipc://{folder}/s")


def test_a_path_at_the_limit_works(tmp_path: Path) -> None:
    path = f"{tmp_path}/"
    path += "x" * (107 - len(os.fsencode(path)))
    server = ZmqServer(f"ipc://{path}")
    server.close()


def test_an_endpoint_that_cannot_be_bound_is_one_error(tmp_path: Path) -> None:
    with pytest.raises(ProtocolError, match="cannot listen"):
        ZmqServer(f"ipc://{tmp_path}/missing/s")


def test_close_removes_the_socket_file(tmp_path: Path) -> None:
    server = ZmqServer(f"ipc://{tmp_path}/s")
    assert (tmp_path / "s").exists()
    server.close()
    assert not (tmp_path / "s").exists()


def test_a_key_that_is_not_on_the_list_is_not_heard() -> None:
    mine, theirs = key_pairs()
    public, secret = zmq.curve_keypair()
    server = ZmqServer("tcp://127.0.0.1:*", keys=mine)
    stranger = ZmqClient(server.endpoint, keys=CurveKeys(public, secret, frozenset({mine.public})))
    friend = ZmqClient(server.endpoint, keys=theirs)
    stranger.send([b"let me in"])
    friend.send([b"it is me"])
    received = server.receive(WAIT)
    assert received is not None
    assert plain(received[1]) == [b"it is me"]
    assert server.receive(0.2) is None
    for end in (stranger, friend, server):
        end.close()


def test_keys_load_from_certificate_files(tmp_path: Path) -> None:
    public, secret = zmq.auth.create_certificates(str(tmp_path), "server")
    client_public, _ = zmq.auth.create_certificates(str(tmp_path), "client")
    keys = CurveKeys.load(Path(secret), [Path(client_public)])
    assert keys.public == zmq.auth.load_certificate(public)[0]
    assert keys.trusted == {zmq.auth.load_certificate(client_public)[0]}
    with pytest.raises(ProtocolError, match="no secret key"):
        CurveKeys.load(Path(public), [])
    with pytest.raises(ProtocolError, match="not a CURVE certificate"):
        CurveKeys.load(tmp_path / "missing", [])


@pytest.mark.parametrize("trusted", [frozenset(), frozenset({b"1" * 40, b"2" * 40})])
def test_a_client_trusts_exactly_one_server(trusted: frozenset[bytes]) -> None:
    public, secret = zmq.curve_keypair()
    with pytest.raises(ProtocolError, match="cannot connect"):
        ZmqClient("tcp://127.0.0.1:1", keys=CurveKeys(public, secret, trusted))


def test_a_socket_of_somebody_else_is_not_connected_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.sock"
    path.touch()
    if os.getuid() == 0:
        os.chown(path, 12345, -1)
    else:
        monkeypatch.setattr(os, "getuid", lambda: 12345)
    with pytest.raises(ProtocolError, match=rf"belongs to user {path.stat().st_uid}, not to you"):
        ZmqClient(f"ipc://{path}")


def test_the_kernel_tells_who_sent_a_message(tmp_path: Path) -> None:
    server = ZmqServer(f"ipc://{tmp_path}/s")
    assert server.sender() is None
    client = ZmqClient(server.endpoint)
    client.send([b"x"])
    assert server.receive(WAIT) is not None
    assert server.sender() == Sender(os.getuid(), os.getpid())
    client.close()
    server.close()


def test_a_client_that_is_dropped_with_unsent_messages_holds_nobody_up(tmp_path: Path) -> None:
    code = """if True:
        import sys, warnings
        from hotset.protos.transport import ZmqClient
        warnings.simplefilter("ignore", ResourceWarning)
        client = ZmqClient("ipc://" + sys.argv[1])
        assert client.send([b"to nobody"])
        del client
    """
    ended = subprocess.run([sys.executable, "-c", code, str(tmp_path / "s")], check=False, timeout=60)
    assert ended.returncode == 0


def ends_with_trouble(client: ZmqClient, words: str, server: ZmqServer | None = None) -> bool:
    """Whether the client comes to say so, or to say nothing if there are no words."""
    client.send([b"x"])
    end = time.monotonic() + WAIT
    while not (found := words in client.trouble() and bool(words) == bool(client.trouble())):
        if time.monotonic() > end:
            break
        time.sleep(0.02) if server is None else server.receive(0.02)
    client.close()
    return found


def test_a_monitored_client_knows_why_nobody_answers(tmp_path: Path) -> None:
    mine, theirs = key_pairs()
    public, secret = zmq.curve_keypair()
    nobody = ZmqClient(f"ipc://{tmp_path}/nothing", monitored=True)
    assert ends_with_trouble(nobody, "nobody listens there")
    server = ZmqServer("tcp://127.0.0.1:*", keys=mine)
    cases = {
        "": theirs,
        "refuses our key": CurveKeys(public, secret, frozenset({mine.public})),
        "another key than the server.key": CurveKeys(theirs.public, theirs.secret, frozenset({public})),
    }
    for words, keys in cases.items():
        assert ends_with_trouble(ZmqClient(server.endpoint, keys=keys, monitored=True), words, server)
    server.close()
