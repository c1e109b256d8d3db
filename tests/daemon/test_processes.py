"""Real processes: daemons and engines that are killed, stopped, told to let go, and asked who they are."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from sandbox import WAIT, Hotset, planned, until

from hotset.predictor.model import PUSHED_FILE, ReuseModel
from hotset.predictor.trace import read_trace

pytestmark = pytest.mark.e2e
SAMPLE = Path(__file__).parents[1] / "data" / "sample.parquet"


def test_a_killed_daemon_is_replaced_and_decoding_never_waits(hotset: Hotset, trace: Path) -> None:
    first = hotset.daemon()
    engine = hotset.start("play", trace, "--speed", 100, "--times", 8)
    until(lambda: hotset.statuses() and planned(hotset.statuses()[0]) > 20)
    first.send_signal(signal.SIGKILL)
    first.wait()
    second = hotset.daemon("--once")
    until(lambda: len(hotset.statuses()) == 2 and planned(hotset.statuses()[1]) > 20)
    played = json.loads(engine.communicate(timeout=WAIT)[0])
    assert engine.returncode == 0
    assert second.wait(timeout=WAIT) == 0
    assert played["steps"] == 1200
    assert played["plans"] > 40
    before, after = hotset.statuses()
    assert before["role"] == "controller"
    assert after["role"] == "ended"
    assert after["counters"]["snapshots"] >= 1
    read_trace(Path(after["log"]) / "trace")


def test_what_a_killed_daemon_logged_is_readable(hotset: Hotset, trace: Path) -> None:
    daemon = hotset.daemon("--flush-seconds", 0.5)
    hotset.start("play", trace, "--speed", 50, "--times", 4)
    until(lambda: list(hotset.logs.glob("*/trace/part-*1.parquet")))
    daemon.kill()
    daemon.wait()
    log = read_trace(hotset.statuses()[0]["log"] + "/trace")
    recorded, played = log.sequences[0], read_trace(trace).sequences[0]
    rows = np.searchsorted(played.steps, recorded.steps)
    np.testing.assert_array_equal(recorded.pages, played.pages[rows])


def test_a_killed_engine_ends_its_session_and_is_forgotten(hotset: Hotset, trace: Path) -> None:
    daemon = hotset.daemon()
    engine = hotset.start("play", trace, "--speed", 25, "--times", 9)
    until(lambda: hotset.statuses() and planned(hotset.statuses()[0]) > 10)
    (row,) = hotset.ps()
    assert row["pid"] == engine.pid
    assert row["sequences"] == 2
    assert row["controller"] == f"hotset-daemon {daemon.pid}"
    engine.kill()
    engine.wait()
    until(lambda: hotset.statuses()[0]["role"] == "ended")
    (status,) = hotset.statuses()
    assert status["reason"] == "the decode process is gone"
    assert len(read_trace(status["log"] + "/trace").sequences) == 2
    assert hotset.ps() == []
    assert list((hotset.folder / "run").iterdir()) == []
    assert daemon.poll() is None
    daemon.terminate()
    assert daemon.wait(timeout=WAIT) == 0


def test_sigterm_finishes_the_log(hotset: Hotset, trace: Path) -> None:
    daemon = hotset.daemon()
    hotset.start("play", trace, "--speed", 25, "--times", 9)
    until(lambda: hotset.statuses() and hotset.statuses()[0]["counters"]["steps_received"] > 10)
    daemon.terminate()
    assert daemon.wait(timeout=WAIT) == 0
    (status,) = hotset.statuses()
    assert (status["role"], status["reason"]) == ("ended", "stopped")
    steps = sum(len(sequence.lengths) for sequence in read_trace(status["log"] + "/trace").sequences)
    assert steps == status["counters"]["steps_logged"] > 20


def test_a_stopped_daemon_loses_the_lease_to_a_standby(hotset: Hotset, trace: Path) -> None:
    first = hotset.daemon()
    hotset.start("play", trace, "--speed", 25, "--times", 20)
    until(lambda: hotset.statuses() and planned(hotset.statuses()[0]) > 5)
    hotset.daemon()
    until(lambda: len(hotset.statuses()) == 2 and hotset.statuses()[1]["reason"])
    assert str(first.pid) in hotset.statuses()[1]["reason"]
    first.send_signal(signal.SIGSTOP)
    until(lambda: planned(hotset.statuses()[1]) > 5)
    first.send_signal(signal.SIGCONT)
    until(lambda: hotset.statuses()[0]["role"] == "standby")
    assert hotset.statuses()[1]["role"] == "controller"


def test_attach_watches_and_detach_makes_the_daemon_let_go(hotset: Hotset, trace: Path) -> None:
    daemon = hotset.daemon()
    engine = hotset.start("play", trace, "--speed", 25, "--times", 9)
    until(lambda: hotset.statuses() and planned(hotset.statuses()[0]) > 5)
    watched = hotset.run("attach", engine.pid, "--lines", 2, "--every", 0.5)
    assert watched.returncode == 0
    assert watched.stdout.startswith(f"pid {engine.pid}, tiny, 2 sequences; controller: hotset-daemon {daemon.pid}")
    assert watched.stdout.count("\nstep ") == 2
    told = hotset.run("detach", engine.pid)
    assert (told.returncode, told.stdout.strip()) == (0, f"hotset-daemon {daemon.pid} let go")
    until(lambda: hotset.statuses()[0]["role"] == "ended")
    assert hotset.ps()[0]["controller"] == "none"
    again = hotset.run("detach", engine.pid)
    assert again.returncode != 0
    assert "nobody holds the lease" in again.stderr
    assert len(again.stderr.strip().splitlines()) == 1


def test_a_runtime_that_does_not_answer_is_told_of_once(hotset: Hotset, trace: Path) -> None:
    engine = hotset.start("play", trace, "--speed", 50, "--times", 50)
    hotset.endpoint(engine)
    engine.send_signal(signal.SIGSTOP)
    daemon = hotset.daemon()
    until(lambda: "event=unanswered" in hotset.said(daemon))
    engine.send_signal(signal.SIGCONT)
    until(lambda: hotset.statuses() and planned(hotset.statuses()[0]) > 5)
    assert hotset.said(daemon).count("event=unanswered") == 1


@pytest.mark.parametrize("command", ["attach", "detach"])
@pytest.mark.parametrize(("target", "says"), [("4194304", "no decode process"), ("nonsense", "neither a pid")])
def test_a_wrong_target_is_one_line(hotset: Hotset, command: str, target: str, says: str) -> None:
    result = hotset.run(command, target)
    assert result.returncode == 2
    assert says in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


def test_a_model_is_trained_in_a_child_swapped_in_and_taken_up_after_a_kill(hotset: Hotset, trace: Path) -> None:
    quick = ("--train-argument=--rows=40000", "--train-argument=--trees=8")
    daemon = hotset.daemon("--train", "--train-after", 200, "--swap", "always", *quick)
    engine = hotset.start("play", trace, "--speed", 20, "--times", 40)
    until(lambda: hotset.statuses() and hotset.statuses()[0]["counters"]["trainings"])
    end = time.monotonic() + 2 * WAIT
    while not hotset.statuses()[0]["counters"]["swaps"]:
        (status,) = hotset.statuses()
        assert "training_failed" not in [phase["phase"] for phase in status["phases"]], status["phases"]
        assert time.monotonic() < end
        time.sleep(0.5)
    before = planned(hotset.statuses()[0])
    until(lambda: planned(hotset.statuses()[0]) > before + 10)
    daemon.kill()
    again = hotset.daemon("--once", "--train", "--train-after", 200)
    until(lambda: len(hotset.statuses()) == 2 and planned(hotset.statuses()[1]) > 10)
    engine.kill()
    assert again.wait(timeout=WAIT) == 0
    first, second = hotset.statuses()
    phases = [phase["phase"] for phase in first["phases"]]
    assert phases[:6] == ["attach", "heuristic", "training_started", "training_finished", "swap", "learned"]
    # On such a trace the guard may well have handed over to the heuristic again.
    assert set(phases[6:]) <= {"heuristic", "learned", "lease_lost", "attach"}
    resumed, *later = second["phases"]
    assert (resumed["phase"], resumed["version"]) == ("resumed", first["phases"][4]["version"])
    assert later[0]["phase"] == "attach"
    assert later[-1]["phase"] == "end"
    # One training was enough for the first, so it is for the second.
    assert second["counters"]["trainings"] == 1
    assert "training_started" not in [phase["phase"] for phase in later]


def test_heads_trained_on_the_own_log_are_pushed_pushed_again_and_never_when_damaged(hotset: Hotset) -> None:
    engine = hotset.start("play", SAMPLE, "--speed", 25, "--times", 400)
    hotset.endpoint(engine)
    trains = ("--train", "--train-after", 100, "--swap", "always", "--train-argument=--trees=8")
    first = hotset.daemon(*trains, "--train-argument=--rows=20000")

    def phases() -> list[str]:
        return [phase["phase"] for phase in hotset.statuses()[-1]["phases"]] if hotset.statuses() else []

    until(lambda: "push_accepted" in phases())
    assert phases().index("swap") < phases().index("push") < phases().index("push_accepted")
    status = hotset.statuses()[-1]
    until(lambda: hotset.statuses()[-1]["in_step"].get("model", {}).get("state") == "in force")
    until(lambda: (hotset.statuses()[-1]["gauges"]["step_precision"] or 0) > 0)
    model = Path(status["log"]) / "training-1" / "model"
    assert ReuseModel.load(model).device is not None
    log = read_trace(Path(status["log"]) / "trace")
    assert all((s.lookahead[1] >= 0).any() for s in log.sequences)
    first.send_signal(signal.SIGTERM)
    first.wait(timeout=WAIT)
    # What served is taken up from the state file, and pushed again.
    second = hotset.daemon()
    until(lambda: len(hotset.statuses()) == 2 and "push_accepted" in phases())
    assert phases()[0] == "resumed"
    second.send_signal(signal.SIGTERM)
    second.wait(timeout=WAIT)
    data = bytearray((model / PUSHED_FILE).read_bytes())
    data[len(data) // 2] ^= 1
    (model / PUSHED_FILE).write_bytes(data)
    third = hotset.daemon()
    until(lambda: len(hotset.statuses()) == 3 and planned(hotset.statuses()[2]) > 20)
    assert "event=model_refused" in hotset.said(third)
    assert "device.bin is not what the card names" in hotset.said(third)
    assert hotset.statuses()[2]["counters"]["models_pushed"] == 0
