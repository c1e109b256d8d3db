"""Kill either side at any moment: the output does not change, the logs stay readable, others take over."""

from __future__ import annotations

import json
import random
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from processes import Start, hotset, statuses, steps_of, wait_for

pytestmark = pytest.mark.e2e
Arguments = Callable[[str], list[object]]


def tokens_of(out: Path) -> list[list[int]]:
    return [s["tokens"] for s in json.loads((out / "decode.json").read_text())["sequences"]]


def phases(log_dir: Path) -> list[str]:
    return [p["phase"] for s in statuses(log_dir) for p in s["phases"]]


def test_kill_the_daemon_and_start_another(
    start: Start, serve: Start, decode_arguments: Arguments, tmp_path: Path
) -> None:
    """SIGKILL at a random step: decoding goes on, a new daemon takes the lease over, tokens are as without any."""
    alone = start(*decode_arguments("alone"), "--max-new-tokens", 700, "--no-listen", "--untiered")
    assert alone.wait(90) == 0
    out, logs = tmp_path / "steered", tmp_path / "logs"
    first = serve("--log-dir", logs, "--flush-seconds", 0.5)
    decode = start(*decode_arguments("steered"), "--max-new-tokens", 700)
    target = random.randint(10, 60)
    wait_for(lambda: "heuristic" in phases(logs) and len(steps_of(out)) >= target, "the first daemon plans")
    wait_for(lambda: list(logs.glob("*/trace/*.parquet")), "the first part of the log is on disk")
    first.kill()
    at_kill = len(steps_of(out))
    wait_for(lambda: len(steps_of(out)) > at_kill + 5, "decoding goes on without a daemon")
    decode.send_signal(signal.SIGSTOP)  # However long the second takes to start, there is something left to steer.
    second = serve("--pid", decode.pid, "--log-dir", logs)
    decode.send_signal(signal.SIGCONT)
    wait_for(lambda: phases(logs).count("heuristic") == 2, "the second daemon takes over")
    assert decode.wait(90) == 0
    assert second.wait(30) == 0
    assert tokens_of(out) == tokens_of(tmp_path / "alone")
    assert all(s["counters"]["plans_sent"] > 0 for s in statuses(logs)[1:])
    info = hotset("trace", "info", Path(statuses(logs)[0]["log"]) / "trace")
    assert info.returncode == 0, info.stderr


def test_kill_the_decode_process(
    start: Start, serve: Start, decode_arguments: Arguments, tmp_path: Path, runtime_dir: Path
) -> None:
    """The daemon notices, ends its session and keeps its log; `hotset ps` forgets the process."""
    logs = tmp_path / "logs"
    daemon = serve("--log-dir", logs)
    decode = start(*decode_arguments("out"), "--max-new-tokens", 2000)
    wait_for(lambda: [s for s in statuses(logs) if s["counters"]["steps_received"] > 10], "steps arrive")
    assert str(decode.pid) in hotset("ps").stdout
    decode.send_signal(signal.SIGKILL)
    decode.wait()
    wait_for(lambda: "end" in phases(logs), "the session ends")
    assert "no decode process" in hotset("ps").stdout
    assert not list(runtime_dir.glob(f"{decode.pid}.json"))
    assert daemon.poll() is None
    daemon.terminate()
    assert daemon.wait(30) == 0
    info = hotset("trace", "info", Path(statuses(logs)[0]["log"]) / "trace")
    assert info.returncode == 0, info.stderr


def test_mistakes_are_one_line(checkpoint: Path, tmp_path: Path, runtime_dir: Path) -> None:
    cases: list[tuple[list[object], str]] = [
        (["decode"], "--prompt"),
        (["decode", "--model", tmp_path / "no", "--prompt", "w1"], "no model at"),
        (["decode", "--model", checkpoint, "--prompt", "w1", "--hbm-fraction", "3"], "hbm_fraction"),
        (["decode", "--prompt-file", tmp_path / "no.txt"], "no.txt"),
        (["attach", "999999"], "hotset ps"),
        (["report", tmp_path], "not a finished demo run"),
        (["train", tmp_path / "nothing"], "nothing"),
        (["replay", tmp_path / "nothing", "--policy", "lru"], "nothing"),
        (["daemon", "--model", tmp_path / "nothing", "--once"], "nothing"),
    ]
    for arguments, words in cases:
        done = hotset(*arguments)
        assert done.returncode not in (0, 1), (arguments, done.stderr)
        assert "Traceback" not in done.stderr
        assert words in done.stderr, (arguments, done.stderr)
        assert len(done.stderr.strip().splitlines()) == 1, done.stderr


def test_a_queue_that_shares_a_prefix_behind_a_slow_link(
    start: Start, serve: Start, checkpoint: Path, tmp_path: Path
) -> None:
    """Four prompts for two places, steered by a daemon: the tokens are those of a decode with room for everything."""
    common = " ".join(f"w{(j * j) % 64}" for j in range(160))
    files: list[object] = []
    for i in range(4):
        (tmp_path / f"p{i}.txt").write_text(common + "".join(f" w{(i * j) % 64}" for j in range(1, 40 + 7 * i)))
        files += ["--prompt-file", tmp_path / f"p{i}.txt"]
    logs, out = tmp_path / "logs", tmp_path / "out"
    daemon = serve("--log-dir", logs)
    decode = start("decode", "--model", checkpoint, *files, "--page-size", 8, "--selected", 8, "--threads", 1,
                   "--ignore-eos", "--max-running", 2, "--max-new-tokens", 120, "--prefill-chunk", 64,
                   "--hbm-fraction", 0.2, "--link-gbps", 0.05, "--check", "--out", out)  # fmt: skip
    assert decode.wait(90) == 0
    daemon.terminate()
    assert daemon.wait(30) == 0
    steps, result = steps_of(out), json.loads((out / "decode.json").read_text())
    assert result["tokens_identical_to_untiered"]
    assert result["moved"]["shared_pages"] > 0
    assert (steps[0]["waiting"], steps[-1]["waiting"]) == (2, 0)
    assert max(s["sequences"] for s in steps) == 2
    assert any(s["stall_seconds"] > 0 for s in steps)
    assert statuses(logs)[0]["counters"]["steps_received"] > 0


def test_a_logged_run_is_simulated_as_it_was(
    start: Start, serve: Start, decode_arguments: Arguments, tmp_path: Path
) -> None:
    """`hotset simulate --real` of what a daemon logged of a decode behind a slow link: misses and movement agree."""
    logs = tmp_path / "logs"
    daemon = serve("--once", "--plan-every", 0, "--no-advice-enabled", "--log-dir", logs)
    slow = ("--link-gbps", 0.5, "--link-latency-us", 100, "--hbm-fraction", 0.3)
    decode = start(*decode_arguments("out"), "--max-new-tokens", 110, *slow)
    assert decode.wait(90) == 0
    assert daemon.wait(30) == 0
    done = hotset("simulate", "--real", logs, "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["policy"], found["builtin"]) == ("builtin", "margin-ema")
    # The daemon may find the process some steps after it began.
    assert 50 < found["steps"] + found["calibrated"] <= len(steps_of(tmp_path / "out"))
    misses, moved = found["figures"]["demand_misses"], found["figures"]["moved_bytes"]
    assert misses["real"] > 500
    assert max(abs(misses["error"]), abs(moved["error"])) < 0.05
    assert found["figures"]["stall_seconds"]["real"] > 0
