"""A daemon as its keepers see it: probes, metrics, reload, systemd, and both ways to stop; with real processes."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hotset.protos.discovery import process_start_time

pytestmark = pytest.mark.e2e
WAIT = 90.0


class Kept:
    """A daemon with its log as JSON, its port, and systemd's socket."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "daemon.toml"
        self.errors = folder / "err"
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(folder / "notify"))
        self.socket.settimeout(WAIT)
        self.file.write_text('metrics_port = 0\nlog_format = "json"\n[rules]\nhorizon = 4\n')
        environment = os.environ | {
            "HOTSET_RUNTIME_DIR": str(folder / "run"), "HOTSET_LOG_DIR": str(folder / "logs"),
            "NOTIFY_SOCKET": str(folder / "notify"), "WATCHDOG_USEC": "1000000",
        }  # fmt: skip
        with self.errors.open("wb") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "hotset.ops", "daemon", "--config", str(self.file)],
                env=environment, stderr=errors,
            )  # fmt: skip

    def events(self, name: str) -> list[dict[str, Any]]:
        lines = self.errors.read_text().splitlines(keepends=True)
        read = [json.loads(line) for line in lines if line.endswith("\n")]
        return [event for event in read if event["event"] == name]

    def until(self, condition: Callable[[], Any]) -> Any:
        end = time.monotonic() + WAIT
        while not (value := condition()):
            assert self.process.poll() is None, self.errors.read_text()
            assert time.monotonic() < end, self.errors.read_text()
            time.sleep(0.05)
        return value

    def get(self, path: str) -> tuple[int, str]:
        port = self.until(lambda: self.events("metrics_serving"))[0]["port"]
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}") as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    def told(self, start: str) -> str:
        """The next datagram to systemd that begins so."""
        end = time.monotonic() + WAIT
        while not (text := self.socket.recv(4096).decode()).startswith(start):
            # The watchdog's keep coming, so that waiting for one never ends by itself.
            assert time.monotonic() < end, f"systemd was never told {start}"
        return text

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self.socket.close()


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[Kept]:
    made = Kept(tmp_path)
    yield made
    made.close()


def test_probes_reload_and_a_graceful_stop(kept: Kept) -> None:
    code, body = kept.get("/readyz")
    # Whether it still compiles depends on what is cached; either way it is healthy and says so.
    assert (code, json.loads(body)["ready"]) in {(503, False), (200, True)}
    assert kept.get("/healthz")[0] == 200
    kept.told("READY=1")
    kept.told("WATCHDOG=1")
    assert json.loads(kept.get("/readyz")[1]) == {"ready": True, "reasons": []}
    assert "hotset_ready 1.0" in kept.get("/metrics")[1]
    kept.file.write_text('metrics_port = 1\nlog_format = "json"\n[rules]\nhorizon = 5\n')
    kept.process.send_signal(signal.SIGHUP)
    (reloaded,) = kept.until(lambda: kept.events("config_reloaded"))
    assert reloaded["changed"] == ["rules.horizon"]
    assert kept.events("config_kept")[0]["keys"] == ["metrics_port"]
    kept.told("RELOADING=1")
    kept.told("READY=1")
    kept.file.write_text("[rules]\nhorizon = 0\nhorizn = 3\n")
    kept.process.send_signal(signal.SIGHUP)
    (refused,) = kept.until(lambda: kept.events("config_refused"))
    assert len(refused["mistakes"]) == 3
    assert 'hotset_config_reloads_total{result="refused"} 1.0' in kept.get("/metrics")[1]
    kept.told("READY=1\nSTATUS=serving; a changed configuration was refused, see the log")
    kept.process.send_signal(signal.SIGTERM)
    kept.told("STOPPING=1")
    assert kept.process.wait(timeout=WAIT) == 0


TWO_SIGNALS = """
import os, signal, subprocess, sys, time
from hotset.daemon import training
from hotset.daemon.config import DaemonConfig
from hotset.daemon.run import ECHO_SECONDS, stopper
from hotset.daemon.server import Daemon

child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
training._children.add(child)
# Nobody serves, so the first signal is noted and never followed.
stop = stopper(Daemon(DaemonConfig()))
signal.signal(signal.SIGTERM, stop)
signal.signal(signal.SIGINT, stop)
os.kill(os.getpid(), signal.SIGTERM)
os.kill(os.getpid(), signal.SIGINT)  # an echo
print(child.pid, flush=True)
time.sleep(2 * ECHO_SECONDS)
os.kill(os.getpid(), signal.SIGTERM)
time.sleep(600)
"""


def test_a_second_signal_ends_it_and_its_training_at_once(tmp_path: Path) -> None:
    environment = os.environ | {"HOTSET_RUNTIME_DIR": str(tmp_path / "run")}
    done = subprocess.run(
        [sys.executable, "-c", TWO_SIGNALS], env=environment, cwd=tmp_path, capture_output=True, text=True, check=False,
        timeout=WAIT,
    )  # fmt: skip
    assert done.returncode == 128 + signal.SIGTERM, done.stderr
    end = time.monotonic() + WAIT
    while process_start_time(int(done.stdout)) is not None:
        assert time.monotonic() < end
        time.sleep(0.02)
