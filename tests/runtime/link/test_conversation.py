"""Who hears what: hellos, steps, plans, advice, models and snapshots, as a peer sees them."""

from __future__ import annotations

import os
import sys
import threading

import numpy as np
import pytest
import torch
from link_bench import (
    GEOMETRY,
    Bench,
    make_lookahead,
    make_plan,
    make_snapshot,
    make_step,
)

from hotset.protos.messages import (
    Ack,
    Advice,
    Detach,
    Model,
    SequenceOpen,
    Snapshot,
    SnapshotRequest,
    Step,
)
from hotset.runtime.config import RuntimeConfig
from hotset.runtime.paged_kv import ModelShape, PagedKV
from hotset.runtime.steering import SWITCH_SECONDS, LinkSteering


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


def test_the_loop_may_wait_for_a_plan(bench: Bench) -> None:
    peer = bench.controller()
    assert bench.link.take_plan(0.001) is None
    sender = threading.Timer(0.05, peer.send, [make_plan(1)])
    sender.start()
    plan = bench.link.take_plan(20.0)
    sender.join()
    assert plan is not None
    assert bench.link.take_plan() is None


def test_a_plan_that_had_seen_ticks_of_before_they_began_anew_is_refused(bench: Bench) -> None:
    steering, peer = LinkSteering(bench.link, lifetime=2), bench.controller()
    shape = ModelShape("toy", 2, 1, 2, 3, torch.float32)
    kv = PagedKV(shape, RuntimeConfig.checked(page_size=4, selected=2, max_tokens=40, max_sequences=1, hbm_pages=12))
    # Plans are for what was seen in step 1.
    for number, ticks, reason in [(1, (90, 92, 94), ""), (2, (92, 94, 2), "unknown_epoch")]:
        for epoch, tick in enumerate(ticks):
            steering.end_step(epoch, tick)
        peer.send(make_plan(number))
        peer.barrier()
        steering.apply(kv.manager, 3)
        ack = peer.expect(Ack)
        assert (ack.number, ack.accepted, ack.reason) == (number, not reason, reason)
    kv.manager.close()
    steering.close()


def test_threads_of_the_link_give_the_interpreter_up_soon_while_somebody_may_steer(bench: Bench) -> None:
    before = sys.getswitchinterval()
    assert before > SWITCH_SECONDS
    steering = LinkSteering(bench.link, lifetime=2)
    assert sys.getswitchinterval() == pytest.approx(SWITCH_SECONDS)
    steering.close()
    assert sys.getswitchinterval() == pytest.approx(before, abs=2e-6)  # Python keeps whole microseconds


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
