"""Who leads: one controller at a time, until it is silent, dead, or told to let go."""

from __future__ import annotations

import time

from link_bench import (
    Bench,
    bench_with,
    make_plan,
    make_step,
    until,
)

from hotset.protos.messages import (
    Ack,
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
