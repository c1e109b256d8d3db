"""The runtime's rules as a peer sees them, over the in-memory transport and over a real socket."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import msgpack  # type: ignore[import-untyped]
import numpy as np
import pytest

from hotset.protos import discovery
from hotset.protos.errors import ProtocolError
from hotset.protos.messages import (
    Ack,
    Advice,
    Attach,
    Detach,
    Error,
    Geometry,
    Heartbeat,
    Hello,
    Lookahead,
    Message,
    Model,
    Plan,
    SequenceClose,
    SequenceOpen,
    Snapshot,
    SnapshotRequest,
    Step,
)
from hotset.protos.transport import ClientTransport, MemoryServer, Sender, ZmqClient
from hotset.protos.wire import Frame, decode, encode
from hotset.runtime.link import ControlLink, LinkLimits
from hotset.runtime.link.server import impostor

WAIT = 5.0
GOLDEN = Path(__file__).parents[2] / "golden" / "protocol"
M = TypeVar("M", bound=Message)
GEOMETRY = Geometry(layers=2, kv_heads=1, page_size=4, selected=2, candidates=4, page_bytes=64, slots=8, groups=100)


class Peer:
    """The other end of a link."""

    def __init__(self, client: ClientTransport) -> None:
        self.client = client
        # Over a socket the kernel knows better.
        self.pid = os.getpid() if isinstance(client, ZmqClient) else 1
        self.numbers: list[int] = []
        self._sent = 0

    def send(self, message: Message) -> None:
        self._sent += 1
        assert self.client.send(encode(message, self._sent))

    def send_frames(self, *frames: Frame) -> None:
        assert self.client.send(list(frames))

    def attach(self, role: str = "controller", name: str = "peer") -> Hello:
        self.send(Attach.model_validate({"peer": name, "pid": self.pid, "role": role}))
        return self.expect(Hello)

    def receive(self, timeout: float = WAIT) -> Message | None:
        frames = self.client.receive(timeout)
        if frames is None:
            return None
        number, message = decode(frames)
        self.numbers.append(number)
        return message

    def expect(self, kind: type[M]) -> M:
        message = self.receive()
        assert isinstance(message, kind), message
        return message

    def barrier(self) -> None:
        """Return once everything sent so far was handled."""
        self.send(Heartbeat())
        assert self.expect(Ack).of == "heartbeat"


def make_plan(number: int = 1, entries: int = 1) -> Plan:
    return Plan(
        number=number, epoch=1, deadline=5, source="heuristic",
        pages=np.arange(entries, dtype="<i4"), generations=np.zeros(entries, "<u4"), values=np.ones(entries, "<f4"),
        prefetch=np.zeros(0, "<i4"), prefetch_generations=np.zeros(0, "<u4"),
    )  # fmt: skip


def make_lookahead(number: int) -> Lookahead:
    return Lookahead(
        number=number, distance=np.array([0, 1], "|i1"), least=np.array([np.nan, 0.5], "<f4"),
        pages=np.array([-1, 9], "<i4"),
    )  # fmt: skip


def make_step(epoch: int, width: int = 4) -> Step:
    return Step(
        epoch=epoch, sequences=[1], lengths=np.ones(1, "<i4"), sequence_steps=np.zeros(1, "<i4"),
        candidates=np.zeros((2, width), "<i4"), scores=np.zeros((2, width), "|u1"), flags=np.zeros((2, width), "|u1"),
        new_sequence=np.zeros(0, "<i8"), new_group=np.zeros(0, "<i4"), new_generation=np.zeros(0, "<u4"),
        loaded=np.zeros(0, "<i4"), evicted=np.zeros(0, "<i4"),
    )  # fmt: skip


def make_snapshot(epoch: int) -> Snapshot:
    return Snapshot(
        epoch=epoch, sequences=[], prompt_tokens=np.zeros(0, "<i4"), lengths=np.zeros(0, "<i4"),
        sequence_steps=np.zeros(0, "<i4"), offsets=np.zeros(1, "<i4"), groups=np.zeros(0, "<i4"),
        generations=np.zeros(0, "<u4"), resident=np.zeros(0, "<i4"),
    )  # fmt: skip


class Bench:
    """A link over memory and the peers that connect to it."""

    def __init__(self, **limits: Any) -> None:
        self.transport = MemoryServer(high_water_mark=limits.pop("high_water_mark", 64))
        self.link = ControlLink(
            model="m", geometry=GEOMETRY, builtin_policy="ema", transport=self.transport,
            limits=LinkLimits(**limits),
        )  # fmt: skip

    def peer(self) -> Peer:
        return Peer(self.transport.connect())

    def controller(self) -> Peer:
        peer = self.peer()
        assert peer.attach().controller
        return peer


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench()
    yield made
    made.link.close()


@contextlib.contextmanager
def bench_with(**limits: Any) -> Iterator[Bench]:
    made = Bench(**limits)
    try:
        yield made
    finally:
        made.link.close()


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + WAIT
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def test_hello_says_who_we_are(bench: Bench) -> None:
    opened = SequenceOpen(sequence=3, prompt_tokens=9, groups=np.zeros(1, "<i4"), generations=np.zeros(1, "<u4"))
    bench.link.publish(opened)
    bench.link.publish(make_step(41))
    hello = bench.peer().attach(name="x")
    assert (hello.session, hello.pid, hello.geometry) == (bench.link.session, os.getpid(), GEOMETRY)
    assert (hello.controller, hello.holder, hello.epoch, hello.sequences) == (True, "x 1", 41, 1)


def test_everybody_attached_receives_steps_in_order(bench: Bench) -> None:
    peers = [bench.controller(), bench.peer()]
    assert not peers[1].attach("observer").controller
    for epoch in range(5):
        bench.link.publish(make_step(epoch))
    for peer in peers:
        assert [peer.expect(Step).epoch for _ in range(5)] == list(range(5))
        assert peer.numbers == list(range(1, 7))


def test_without_peers_nothing_is_queued(bench: Bench) -> None:
    assert not bench.link.attached
    for epoch in range(1000):
        bench.link.publish(make_step(epoch))
    assert bench.link.counters.outbox_dropped == 0
    assert bench.link.counters.steps_dropped == 0


def test_the_newest_plan_wins_and_the_older_is_acknowledged(bench: Bench) -> None:
    peer = bench.controller()
    peer.send(make_plan(1))
    peer.send(make_plan(2))
    ack = peer.expect(Ack)
    assert (ack.of, ack.number, ack.accepted) == ("plan", 1, False)
    peer.barrier()
    plan = bench.link.take_plan()
    assert plan is not None
    assert plan.number == 2
    assert bench.link.take_plan() is None
    assert bench.link.counters.plans_superseded == 1


def test_a_plan_number_must_grow(bench: Bench) -> None:
    peer = bench.controller()
    peer.send(make_plan(5))
    peer.barrier()
    assert bench.link.take_plan() is not None
    peer.send(make_plan(5))
    assert not peer.expect(Ack).accepted
    assert bench.link.take_plan() is None


def test_advice_and_models_reach_the_loop(bench: Bench) -> None:
    peer = bench.controller()
    for number in range(1, 7):
        peer.send(Model(number=number, version="v", sha256="0" * 64, forest=np.zeros(3, "|u1")))
        peer.send(Advice(number=number, concurrency=number))
    for oldest in (1, 2):
        ack = peer.expect(Ack)
        assert (ack.of, ack.number, ack.accepted) == ("model", oldest, False)
    peer.barrier()
    advice = bench.link.take_advice()
    assert advice is not None
    assert advice.concurrency == 6
    assert bench.link.take_advice() is None
    assert [model.number for model in bench.link.take_models()] == [3, 4, 5, 6]
    assert bench.link.take_models() == []


def test_a_model_whose_number_does_not_grow_is_stale(bench: Bench) -> None:
    peer = bench.controller()
    model = Model(number=3, version="v", sha256="0" * 64, forest=np.zeros(3, "|u1"))
    peer.send(model)
    peer.send(model)
    ack = peer.expect(Ack)
    assert (ack.of, ack.accepted, ack.reason) == ("model", False, "stale: the number must exceed 3")
    peer.barrier()
    assert len(bench.link.take_models()) == 1


def test_the_newest_lookahead_reaches_the_loop_and_none_of_a_lease_that_ended(bench: Bench) -> None:
    peer = bench.controller()
    for number in (1, 2):
        peer.send(make_lookahead(number))
    peer.barrier()
    taken = bench.link.take_lookahead()
    assert taken is not None
    assert taken.number == 2
    assert bench.link.take_lookahead() is None
    peer.send(make_lookahead(3))
    peer.barrier()
    peer.send(Detach())
    bench.peer().attach()
    assert bench.link.take_lookahead() is None


def test_a_snapshot_goes_to_those_who_asked(bench: Bench) -> None:
    asks, watches = bench.controller(), bench.peer()
    watches.attach("observer")
    assert not bench.link.snapshot_wanted()
    asks.send(SnapshotRequest())
    asks.barrier()
    assert bench.link.snapshot_wanted()
    bench.link.publish(make_snapshot(7))
    assert not bench.link.snapshot_wanted()
    bench.link.publish(make_step(8))
    assert asks.expect(Snapshot).epoch == 7
    assert asks.expect(Step).epoch == 8
    assert watches.expect(Step).epoch == 8


def test_a_second_controller_is_told_who_holds_the_lease(bench: Bench) -> None:
    first, second = bench.controller(), bench.peer()
    hello = second.attach()
    assert (hello.controller, hello.holder) == (False, "peer 1")
    refusal = second.expect(Error)
    assert (refusal.code, refusal.reason) == ("lease_held", "peer 1 holds the lease")
    second.send(make_plan())
    assert second.expect(Error).code == "not_controller"
    assert bench.link.take_plan() is None
    bench.link.publish(make_step(1))
    assert second.expect(Step).epoch == first.expect(Step).epoch == 1


def test_silence_frees_the_lease_for_another() -> None:
    with bench_with(lease_seconds=0.2) as bench:
        first, second = bench.controller(), bench.peer()
        first.send(make_plan())
        assert first.expect(Error).code == "lease_expired"
        # What a lost controller left behind is void.
        assert bench.link.take_plan() is None
        assert second.attach().controller
        first.send(make_plan(2))
        assert first.expect(Error).code == "not_controller"


def test_heartbeats_keep_the_lease() -> None:
    with bench_with(lease_seconds=0.5) as bench:
        peer = bench.controller()
        end = time.monotonic() + 1.0
        while time.monotonic() < end:
            peer.barrier()
            time.sleep(0.05)
        assert peer.attach().controller


def test_detach_frees_the_lease_and_ends_the_stream(bench: Bench) -> None:
    first, second = bench.controller(), bench.peer()
    first.send(make_plan())
    first.send(Detach())
    until(lambda: not bench.link.attached)
    assert bench.link.take_plan() is None
    assert second.attach().controller
    bench.link.publish(make_step(1))
    second.expect(Step)
    assert first.receive(0.05) is None


def test_a_dead_controller_frees_the_lease_at_the_next_step(bench: Bench) -> None:
    first, second = bench.controller(), bench.peer()
    first.client.close()
    bench.link.publish(make_step(1))
    until(lambda: not bench.link.attached)
    assert second.attach().controller


def test_anybody_attached_may_make_the_controller_let_go(bench: Bench) -> None:
    holder, person = bench.controller(), bench.peer()
    person.attach("observer")
    holder.send(make_plan())
    holder.barrier()
    person.send(Detach(target="controller", reason="please"))
    assert person.expect(Ack).reason == "peer 1 let go"
    told = holder.expect(Error)
    assert (told.code, told.reason) == ("revoked", "please")
    assert bench.link.take_plan() is None
    assert not holder.attach().controller
    assert holder.expect(Error).code == "revoked"
    person.send(Detach(target="controller"))
    assert person.expect(Error).code == "no_controller"


@pytest.mark.parametrize(
    ("frames", "code"),
    [
        ([b"x"], "malformed"),
        ([b"", b"", b""], "malformed"),
        (encode(make_step(1), 1), "wrong_direction"),
        (encode(Attach(peer="x", pid=1, protocol=99), 1), "version"),
        (encode(make_plan(1, entries=GEOMETRY.slots + 1), 1), "too_large"),
    ],
)
def test_a_peer_that_breaks_the_protocol_is_dropped_alone(bench: Bench, frames: list[Frame], code: str) -> None:
    bad, good = bench.controller(), bench.peer()
    good.attach("observer")
    bad.send_frames(*frames)
    assert bad.expect(Error).code == code
    bad.send(Heartbeat())
    bench.link.publish(make_step(1))
    good.expect(Step)
    assert bad.receive(0.05) is None
    assert good.attach().controller
    assert bench.link.counters.bad_frames == 1


def test_an_unknown_type_is_answered_and_the_peer_stays(bench: Bench) -> None:
    peer = bench.controller()
    peer.send_frames(b"novelty", bytes(8), msgpack.packb({"type": "novelty", "arrays": []}))
    answer = peer.expect(Error)
    assert answer.code == "unknown_type"
    assert "novelty" in answer.reason
    peer.send(make_plan())
    peer.barrier()
    assert bench.link.take_plan() is not None


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("*.bin")), ids=lambda path: path.stem)
@pytest.mark.parametrize("role", ["stranger", "observer", "controller"])
def test_any_message_from_anybody_leaves_the_link_alive(bench: Bench, path: Path, role: str) -> None:
    bad, good = bench.peer(), bench.peer()
    if role != "stranger":
        bad.attach(role)
    data, frames = path.read_bytes(), []
    while data:
        size = int.from_bytes(data[:4], "big")
        frames.append(data[4 : 4 + size])
        data = data[4 + size :]
    bad.send_frames(*frames)
    bad.send_frames(*frames[:-1], frames[-1] + b"!")
    good.attach("observer")
    good.barrier()
    bench.link._server.peers.check_integrity()
    assert bench.link._thread.is_alive()


def test_nothing_but_attach_is_heard_before_attach(bench: Bench) -> None:
    peer = bench.peer()
    peer.send(make_plan())
    assert peer.expect(Error).code == "not_attached"
    assert bench.link.take_plan() is None
    assert peer.attach().controller


def test_a_flood_is_cut_off() -> None:
    with bench_with(messages_per_second=20) as bench:
        peer = bench.controller()
        for _ in range(60):
            peer.send(Heartbeat())
            time.sleep(0.001)
        while isinstance(answer := peer.receive(), Ack):
            pass
        assert isinstance(answer, Error)
        assert "too many messages" in answer.reason
        peer.send(Heartbeat())
        assert peer.receive(0.05) is None


def test_only_so_many_peers_may_attach() -> None:
    with bench_with(peers=2) as bench:
        for _ in range(2):
            bench.peer().attach("observer")
        third = bench.peer()
        third.send(Attach(peer="x", pid=1))
        assert third.expect(Error).code == "too_many_peers"


def test_a_slow_peer_loses_steps_and_sees_the_gap() -> None:
    with bench_with(high_water_mark=5) as bench:
        slow, quick = bench.controller(), bench.peer()
        quick.attach("observer")
        for epoch in range(20):
            bench.link.publish(make_step(epoch))
            assert quick.expect(Step).epoch == epoch
        assert bench.link.counters.steps_dropped == 15
        for _ in range(5):
            slow.expect(Step)
        bench.link.publish(make_step(20))
        assert slow.expect(Step).epoch == 20
        assert slow.numbers == [1, 2, 3, 4, 5, 6, 22]


def test_publish_drops_when_the_io_thread_is_held_up() -> None:
    with bench_with(outbox=4) as bench:
        peer = bench.controller()
        with bench.transport._changed:  # the I/O thread cannot enter its transport
            for epoch in range(10):
                bench.link.publish(make_step(epoch))
        dropped = bench.link.counters.outbox_dropped
        # The thread may have taken one message before it was held up.
        assert dropped in (5, 6)
        assert bench.link.counters.steps_dropped == dropped
        until(lambda: not bench.link._outbox)
        bench.link.publish(make_step(10))
        received = [peer.expect(Step).epoch for _ in range(11 - dropped)]
        assert received[-1] == 10
        assert peer.numbers[-1] == 12


def test_close_ends_the_thread_and_may_be_repeated(bench: Bench) -> None:
    bench.controller()
    bench.link.close()
    bench.link.close()
    assert not any(thread.name == "hotset-link" for thread in threading.enumerate())
    bench.link.publish(make_step(1))
    assert bench.link.take_plan() is None


def test_the_link_is_found_by_its_file_and_leaves_none(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with ControlLink(model="m", geometry=GEOMETRY, builtin_policy="ema", folder=folder) as link:
        (entry,) = discovery.find_runtimes(folder)
        assert (entry.session, entry.endpoint, entry.geometry) == (link.session, link.endpoint, GEOMETRY)
        client = ZmqClient(entry.endpoint)
        assert Peer(client).attach().session == entry.session
        client.close()
    assert list(folder.iterdir()) == []


def test_two_links_in_one_process_do_not_collide(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    made = [ControlLink(model=m, geometry=GEOMETRY, builtin_policy="ema", folder=folder) for m in ("a", "b")]
    assert [entry.model for entry in discovery.find_runtimes(folder)] == ["a", "b"]
    for link in made:
        link.close()
    assert list(folder.iterdir()) == []


def test_tcp_without_keys_leaves_no_file(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with pytest.raises(ProtocolError, match="needs CURVE keys"):
        ControlLink(model="m", geometry=GEOMETRY, builtin_policy="ema", folder=folder, endpoint="tcp://127.0.0.1:*")
    assert list(folder.iterdir()) == []


def test_steps_survive_the_socket_unchanged(tmp_path: Path) -> None:
    patient = LinkLimits(lease_seconds=120)
    with ControlLink(
        model="m", geometry=GEOMETRY, builtin_policy="ema", folder=tmp_path / "run", limits=patient
    ) as link:
        client = ZmqClient(link.endpoint)
        peer = Peer(client)
        peer.attach()
        rng = np.random.default_rng(0)
        sent = make_step(3, width=20_000).model_copy(
            update={"candidates": rng.integers(0, 99, (2, 20_000), dtype="<i4")}
        )
        link.publish(sent)
        got = peer.expect(Step)
        np.testing.assert_array_equal(got.candidates, sent.candidates)
        link.publish(SequenceClose(sequence=1, tokens=9, reason="length"))
        peer.expect(SequenceClose)
        client.close()


def test_the_link_needs_no_torch() -> None:
    code = "import sys, hotset.runtime.link; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_peer_may_not_claim_to_be_another_process(tmp_path: Path) -> None:
    with ControlLink(model="m", geometry=GEOMETRY, builtin_policy="ema", folder=tmp_path / "run") as link:
        honest, liar = Peer(ZmqClient(link.endpoint)), Peer(ZmqClient(link.endpoint))
        assert honest.attach("observer").session == link.session
        liar.pid = os.getppid()
        liar.send(Attach(peer="liar", pid=liar.pid))
        told = liar.expect(Error)
        assert told.code == "wrong_sender"
        assert f"process {os.getppid()}, the connection is that of process {os.getpid()}" in told.reason
        link.publish(make_step(1))
        honest.expect(Step)
        assert liar.receive(0.05) is None
        for peer in (honest, liar):
            peer.client.close()


@pytest.mark.parametrize(
    ("sender", "welcome"),
    [
        (None, True),  # no kernel vouches: memory, tcp
        (Sender(os.getuid(), 7), True),
        (Sender(os.getuid(), 0), True),  # of another pid namespace, such as a sidecar container
        (Sender(0, 7), True),  # root may do anything anyway
        (Sender(os.getuid(), 8), False),
        (Sender(os.getuid() + 1, 7), False),
        (Sender(os.getuid() + 1, 0), False),
    ],
)
def test_who_may_claim_to_be_process_7(sender: Sender | None, welcome: bool) -> None:
    assert (impostor(7, sender) == "") == welcome
