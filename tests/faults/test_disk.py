"""No room for the log: the daemon goes on steering, and what was written before can be read."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from logs import check_logs, log_folders
from sandbox import HOTSET, Hotset, until
from witness import Witness

from hotset.predictor.trace import Trace

pytestmark = pytest.mark.e2e


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one megabyte."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "hotset-test", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"this user may not mount a file system: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_the_disk_of_the_log_is_full(
    hotset: Hotset, small_disk: Path, trace: Path, recorded: Trace, witness: Callable[[str], Witness]
) -> None:
    """A full disk ends the log, not the session; with room again, the status file is written anew."""
    hotset.logs = small_disk / "logs"
    daemon = hotset.daemon("--flush-seconds", 0.3)
    engine = hotset.start("play", trace, "--speed", 150, "--times", 200, "--check")
    ear = witness(hotset.endpoint(engine))
    until(lambda: len(list(hotset.logs.glob("*/trace/*.parquet"))) >= 2)
    ballast = small_disk / "ballast"
    _fill(ballast)
    until(lambda: "event=log_failed" in hotset.said(daemon))
    ear.hears(steps=200, plans=50)
    ballast.unlink()
    frozen = hotset.statuses()[0]["epoch"]
    until(lambda: hotset.statuses()[0]["epoch"] > frozen)
    _is_whole(hotset, daemon, recorded)


def test_a_limit_on_the_size_of_files(
    hotset: Hotset, trace: Path, recorded: Trace, witness: Callable[[str], Witness]
) -> None:
    """The way that needs no rights: a part of the log that may not grow to its size (RLIMIT_FSIZE, EFBIG)."""
    daemon = hotset.daemon("--flush-seconds", 1.5, command=("prlimit", "--fsize=49152", *HOTSET))
    engine = hotset.start("play", trace, "--speed", 20, "--times", 200, "--check")
    ear = witness(hotset.endpoint(engine))
    ear.hears(plans=5)
    until(lambda: log_folders(hotset))
    engine.kill()
    engine.wait()
    fast = hotset.start("play", trace, "--speed", 300, "--times", 200, "--check")
    ear = witness(hotset.endpoint(fast))
    until(lambda: "event=log_failed" in hotset.said(daemon))
    ear.hears(steps=200, plans=50)
    _is_whole(hotset, daemon, recorded)


def _is_whole(hotset: Hotset, daemon: subprocess.Popen[str], recorded: Trace) -> None:
    daemon.terminate()
    assert daemon.wait(30) == 0
    assert check_logs(hotset, recorded) >= 1
    assert not list(hotset.logs.glob("*/trace/.*")), "a part was left half written"
    assert "event=session_failed" not in hotset.said(daemon)
    assert hotset.statuses()[0]["reason"] in ("stopped", "the decode process is gone")


def _fill(path: Path) -> None:
    with path.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(b"\0" * 1024)
        except OSError:
            return
