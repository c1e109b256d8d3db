"""Who leads: one controller at a time, until it is silent, dead, or told to let go."""

from __future__ import annotations

import time

import pytest
from link_bench import (
    WAIT,
    Bench,
    bench_with,
    make_plan,
    make_step,
    until,
)

from hotset.protos.messages import (
    Ack,
    Advice,
    Detach,
    Error,
    Step,
)


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


@pytest.mark.parametrize("end", ["killed", "detached", "silent"])
def test_advice_outlives_its_controller_by_a_lease_and_then_is_taken_back(end: str) -> None:
    """Otherwise a daemon that dies while it tries how few sequences do leaves it at that."""
    with bench_with(lease_seconds=0.3) as bench:
        peer = bench.controller()
        for number in (4, 5):
            peer.send(Advice(number=number, concurrency=1, admit_every=9, hot_slots=5, groups=[[1, 2]]))
        peer.barrier()
        given = bench.link.take_advice()
        assert given is not None
        assert (given.number, given.concurrency) == (5, 1)
        if end == "killed":
            peer.client.close()
            bench.link.publish(make_step(1))
        elif end == "detached":
            peer.send(Detach())
        until(lambda: bench.link.counters.peers == 0 or end == "silent")
        start = time.monotonic()
        taken = None
        while taken is None:
            taken = bench.link.take_advice()
            assert time.monotonic() < start + WAIT
        assert time.monotonic() - start >= 0.25
        assert taken == Advice(number=5, reason="nobody steers any more")
        time.sleep(0.5)
        assert bench.link.take_advice() is None, "it is taken back once"


def test_advice_stays_in_force_when_another_controller_comes_in_time() -> None:
    with bench_with(lease_seconds=0.6) as bench:
        first, second = bench.controller(), bench.peer()
        first.send(Advice(number=1, concurrency=1))
        first.barrier()
        assert bench.link.take_advice() is not None
        first.send(Detach())
        time.sleep(0.3)
        assert second.attach().controller
        for _ in range(8):
            time.sleep(0.1)
            second.barrier()
        assert bench.link.take_advice() is None


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
