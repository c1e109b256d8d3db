"""Real processes: who may attach and lead, what `ps`, `attach`, `detach` and `top` say, over a socket and over tcp."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from sandbox import WAIT, Hotset, planned, until

pytestmark = pytest.mark.e2e
NO_PROCESS = 4194304  # above the largest pid of Linux


def roles(hotset: Hotset) -> list[str]:
    return [status["role"] for status in hotset.statuses()]


def test_of_two_daemons_one_leads_until_it_dies(hotset: Hotset, trace: Path) -> None:
    """Started at once, they end with one winner; the other says who won, and takes over when the winner is killed."""
    hotset.start("play", trace, "--speed", 25, "--times", 30)
    daemons = {d.pid: d for d in [hotset.start("daemon", "--log-dir", hotset.logs) for _ in range(2)]}
    until(lambda: sorted(roles(hotset)) == ["controller", "standby"])
    until(lambda: all(planned(s) > 5 for s in hotset.statuses() if s["role"] == "controller"))
    (winner,) = hotset.ps()
    leader = daemons.pop(int(winner["controller"].split()[1]))
    (loser,) = daemons.values()
    (waiting,) = [s for s in hotset.statuses() if s["role"] == "standby"]
    assert waiting["reason"] == f"hotset-daemon {leader.pid} holds the lease"
    assert f"hotset-daemon {leader.pid} holds the lease" in hotset.said(loser)
    assert planned(waiting) == 0
    leader.kill()
    until(lambda: hotset.ps()[0]["controller"] == f"hotset-daemon {loser.pid}")
    until(lambda: any(s["role"] == "controller" and s["log"] == waiting["log"] and planned(s) > 5
                      for s in hotset.statuses()))  # fmt: skip


def test_a_daemon_that_was_stopped_sees_the_gap_and_asks_for_a_snapshot(hotset: Hotset, trace: Path) -> None:
    daemon = hotset.daemon()
    hotset.start("play", trace, "--speed", 400, "--times", 200)
    until(lambda: hotset.statuses() and planned(hotset.statuses()[0]) > 20)
    before = hotset.statuses()[0]["counters"]["snapshots"]
    daemon.send_signal(signal.SIGSTOP)
    # Both ends queue 256 messages, and the socket holds some more.
    until(lambda: json.loads(hotset.run("top", "--once", "--json").stdout)[0]["epoch"] > 0)
    time.sleep(4)
    daemon.send_signal(signal.SIGCONT)
    until(lambda: hotset.statuses()[0]["counters"]["gaps"] > 0)
    until(lambda: hotset.statuses()[0]["counters"]["snapshots"] > before)
    sent = planned(hotset.statuses()[0])
    until(lambda: planned(hotset.statuses()[0]) > sent + 5)


def test_tcp_with_keys_from_end_to_end(hotset: Hotset, trace: Path) -> None:
    keys, other = hotset.folder / "keys", hotset.folder / "other"
    made = hotset.run("keys", keys)
    assert made.returncode == 0
    assert len(made.stdout.splitlines()) == 4
    assert hotset.run("keys", keys).returncode == 3
    assert hotset.run("keys", other).returncode == 0
    engine = hotset.start(
        "play", trace, "--speed", 25, "--times", 30, "--listen-tcp", "tcp://127.0.0.1:*", "--keys", keys
    )
    until((hotset.runtime / f"{engine.pid}.json").exists)
    endpoint = json.loads((hotset.runtime / f"{engine.pid}.json").read_text())["endpoint"]
    daemon = hotset.start("daemon", "--log-dir", hotset.logs, "--endpoint", endpoint, "--keys", keys)
    until(lambda: hotset.statuses() and planned(hotset.statuses()[0]) > 5)
    watched = hotset.run("attach", endpoint, "--keys", keys, "--lines", 1, "--every", 0.5, "--json")
    assert json.loads(watched.stdout)["plans_applied"] > 0
    (row,) = json.loads(hotset.run("ps", endpoint, "--keys", keys, "--json").stdout)
    assert (row["pid"], row["controller"]) == (engine.pid, f"hotset-daemon {daemon.pid}")
    (row,) = json.loads(hotset.run("ps", "--json").stdout)
    assert "needs CURVE keys" in row["trouble"]
    for arguments, code, words in (
        ((), 3, "needs CURVE keys"),
        (("--keys", hotset.folder / "none"), 3, "hotset keys"),
        (("--keys", other), 7, "another key than the server.key we trust"),
    ):
        refused = hotset.run("attach", endpoint, *arguments)
        assert (refused.returncode, words in refused.stderr) == (code, True), refused.stderr
        assert len(refused.stderr.strip().splitlines()) == 1
    # The right server key does not help whose own key is not on the list.
    (other / "server.key").write_bytes((keys / "server.key").read_bytes())
    refused = hotset.run("attach", endpoint, "--keys", other)
    assert (refused.returncode, "refuses our key" in refused.stderr) == (7, True), refused.stderr
    told = json.loads(hotset.run("detach", endpoint, "--keys", keys, "--json").stdout)
    assert told == {"pid": engine.pid, "controller": f"hotset-daemon {daemon.pid}", "detached": True}
    assert daemon.wait(timeout=WAIT) == 0


def test_who_does_not_answer_is_told_apart(hotset: Hotset, trace: Path) -> None:
    engine = hotset.start("play", trace, "--speed", 25, "--times", 30)
    endpoint = hotset.endpoint(engine)
    cases: list[tuple[object, int, str]] = [
        (NO_PROCESS, 2, "there is no such process"),
        (os.getpid(), 2, "it publishes nothing in"),
        ("nonsense", 2, "neither a pid nor an endpoint"),
        (f"ipc://{hotset.runtime}/0.sock", 7, "nobody listens there"),
        ("tcp://127.0.0.1:1", 3, "needs CURVE keys"),
        ("udp://127.0.0.1:1", 3, "neither ipc:// nor tcp://"),
    ]
    engine.send_signal(signal.SIGSTOP)
    cases.append((endpoint, 7, "does not answer"))
    for target, code, words in cases:
        told = hotset.run("ps", target)
        assert (told.returncode, words in told.stderr) == (code, True), (target, told.stderr)
        assert len(told.stderr.strip().splitlines()) == 1
    (row,) = hotset.ps()
    assert (row["pid"], row["controller"]) == (engine.pid, "does not answer")
    engine.send_signal(signal.SIGCONT)
    assert hotset.run("detach", engine.pid).returncode == 3
    assert hotset.run("ps", engine.pid).returncode == 0


def test_top_tells_of_every_process_and_of_its_daemon(hotset: Hotset, trace: Path) -> None:
    engines = [hotset.start("play", trace, "--speed", 25, "--times", 30) for _ in range(2)]
    daemon = hotset.daemon()
    until(lambda: len(hotset.statuses()) == 2 and all(planned(s) > 5 for s in hotset.statuses()))
    seen = hotset.run("top", "--once", "--json", "--log-dir", hotset.logs)
    rows: list[dict[str, Any]] = json.loads(seen.stdout)
    assert {row["pid"] for row in rows} == {engine.pid for engine in engines}
    for row in rows:
        assert row["controller"] == f"hotset-daemon {daemon.pid}"
        assert (row["planner"], row["running"], row["trouble"]) == ("heuristic", 2, "")
        assert row["steps_per_second"] > 0
        assert row["tokens_per_second"] == pytest.approx(2 * row["steps_per_second"], abs=0.02)
        assert 0 < row["hit_ratio"] <= 1
        assert row["plans_applied"] > 0
    drawn = hotset.run("top", "--once", "--log-dir", hotset.logs).stdout
    assert all(str(engine.pid) in drawn for engine in engines)
    assert "4 layers x 2 heads" in drawn
    assert hotset.run("top").returncode == 2
    # It watched only: the daemon leads on.
    assert roles(hotset) == ["controller", "controller"]


def test_top_lives_in_a_terminal_and_q_ends_it(hotset: Hotset, trace: Path) -> None:
    master, slave = pty.openpty()
    engine = hotset.start("play", trace, "--speed", 25, "--times", 30)
    until((hotset.runtime / f"{engine.pid}.json").exists)
    environment = os.environ | {"HOTSET_RUNTIME_DIR": str(hotset.runtime), "TERM": "xterm", "COLUMNS": "100"}
    top = subprocess.Popen(
        [sys.executable, "-m", "hotset.ops", "top", "--every", "0.2"],
        stdin=slave, stdout=slave, stderr=subprocess.PIPE, env=environment,
    )  # fmt: skip
    os.close(slave)
    try:
        shown = b""
        end = time.monotonic() + WAIT
        while b"head 1" not in shown or b"0 processes" not in shown:
            assert time.monotonic() < end, shown[-2000:]
            shown += os.read(master, 1 << 16)
            if b"head 1" in shown and engine.poll() is None:
                engine.kill()
                engine.wait()
        os.write(master, b"q")
        _, errors = top.communicate(timeout=WAIT)
        assert (top.returncode, errors) == (0, b"")
        shown += os.read(master, 1 << 16)
        assert b"\x1b[?1049h" in shown
        assert shown.rstrip().endswith((b"\x1b[?1049l", b"\x1b[?25h"))
    finally:
        top.kill()
        os.close(master)
