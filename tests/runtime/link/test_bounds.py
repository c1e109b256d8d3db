"""What a peer may do: garbage, floods, too many and slow peers cost nobody else anything."""

from __future__ import annotations

import time
from pathlib import Path

import msgpack  # type: ignore[import-untyped]
import pytest
from link_bench import (
    GEOMETRY,
    GOLDEN,
    Bench,
    bench_with,
    make_plan,
    make_step,
    until,
)

from hotset.protos.messages import (
    Ack,
    Attach,
    Error,
    Heartbeat,
    Step,
)
from hotset.protos.wire import Frame, encode


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
