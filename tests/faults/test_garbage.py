"""Fuzzed messages over the real socket while a real daemon steers, and a runtime that talks garbage to a daemon."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from attacker import Attacker
from garbage import Garbage
from liar import Liar
from logs import check_logs
from sandbox import Hotset, planned, until
from sizes import MESSAGES, SEED
from vitals import settled, vitals
from witness import Witness

from hotset.predictor.trace import Trace

pytestmark = pytest.mark.e2e
GROWTH = 24 << 20
"""Bytes by which memory may differ: allocators keep what a burst needed, and the daemon's heat tables fill."""


def test_garbage_while_a_daemon_steers(
    hotset: Hotset, trace: Path, recorded: Trace, witness: Callable[[str], Witness]
) -> None:
    """Each bad message ends its peer and nothing else: the daemon keeps the lease and goes on steering."""
    daemon = hotset.daemon("--flush-seconds", 0.5)
    engine = hotset.start("play", trace, "--speed", 50, "--times", 1000, "--check")
    endpoint = hotset.endpoint(engine)
    ear, attacker = witness(endpoint), Attacker(endpoint, SEED)
    ear.hears(plans=10)
    attacker.attack(MESSAGES // 10)
    before = [settled(p.pid) for p in (engine, daemon)]
    started, cpu = time.monotonic(), time.process_time()
    attacker.attack(MESSAGES - MESSAGES // 10)
    print(f"{attacker.sent} messages, {attacker.frames} frames in {time.monotonic() - started:.1f} s", attacker.errors)
    print(f"processor time of the attacker {time.process_time() - cpu:.1f} s")
    attacker.close()
    ear.hears(plans=10)
    for process, then in zip((engine, daemon), before, strict=True):
        assert process.poll() is None
        now = settled(process.pid)
        assert now.threads <= then.threads
        assert now.descriptors <= then.descriptors + 2
        assert now.memory <= then.memory + GROWTH, (then, now)
    assert {"malformed", "wrong_direction", "unknown_type", "not_attached"} <= set(attacker.errors)
    (status,) = hotset.statuses()
    assert status["role"] == "controller"
    assert [phase["phase"] for phase in status["phases"]] == ["attach", "heuristic"]
    daemon.terminate()
    assert daemon.wait(30) == 0
    assert check_logs(hotset, recorded) == 1
    assert "Traceback" not in hotset.said(daemon) + hotset.said(engine)


def test_a_runtime_that_talks_garbage_costs_the_daemon_one_session(hotset: Hotset, trace: Path) -> None:
    """The liar's session ends with a reason, whatever it says; the honest runtime beside it is steered."""
    chance, garbage = random.Random(SEED), Garbage(SEED)
    hotset.runtime.mkdir(mode=0o700, exist_ok=True)
    daemon = hotset.daemon()
    hotset.start("play", trace, "--speed", 50, "--times", 1000)
    until(lambda: hotset.statuses() and planned(hotset.statuses()[0]) > 5)
    before = vitals(daemon.pid)
    for number in range(4):
        with Liar(hotset.runtime, number) as liar:
            liar.greet()
            end = time.monotonic() + 60
            while f"event=session_ended session={liar.session}" not in hotset.said(daemon):
                assert time.monotonic() < end
                for frames in garbage.batch(chance.randrange(1, 20)):
                    liar.say(frames)
                time.sleep(0.05)
    until(lambda: settled(daemon.pid).threads <= before.threads)
    assert settled(daemon.pid).descriptors <= before.descriptors + 2
    honest = hotset.statuses()[0]
    assert (honest["role"], honest["model"]) == ("controller", "tiny")
    plans = planned(honest)
    until(lambda: planned(hotset.statuses()[0]) > plans)
    assert "internal error" not in hotset.said(daemon)
    assert "Traceback" not in hotset.said(daemon)
