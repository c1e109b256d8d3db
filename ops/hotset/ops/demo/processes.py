"""The demo's two processes: a decode process and, later, a daemon. Each is a `hotset` command of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from hotset.ops.run_folder import PROGRESS_FILE, STEPS_FILE
from hotset.protos.errors import HotsetError


class Process:
    """A `hotset` command in the background; its output goes to `log`."""

    def __init__(self, arguments: list[str], log: Path, environment: dict[str, str]) -> None:
        self.log = log
        with log.open("wb") as output:
            self._child = subprocess.Popen(
                [sys.executable, "-m", "hotset.ops", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **environment},
            )

    @property
    def pid(self) -> int:
        """Process id."""
        return self._child.pid

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        return self._child.poll() is None

    @property
    def ended_well(self) -> bool:
        """Whether it has ended, with status 0."""
        return self._child.poll() == 0

    def interrupt(self) -> None:
        """Ask it to end after what it is doing, as Ctrl-C does."""
        self._child.send_signal(signal.SIGINT)

    def wait(self, seconds: float) -> int:
        """Exit status; raises HotsetError if it does not end within `seconds`."""
        try:
            return self._child.wait(seconds)
        except subprocess.TimeoutExpired:
            raise HotsetError(f"process {self.pid} does not end; its output is in {self.log}") from None

    def require(self, what: str) -> None:
        """Raise HotsetError with the last line of output if the process has ended."""
        if not self.running:
            lines = self.log.read_text(errors="replace").strip().splitlines()
            raise HotsetError(f"{what} ended early: {lines[-1] if lines else 'no output'} (see {self.log})")

    def kill(self) -> None:
        """End it now, if it still runs."""
        if self.running:
            self._child.kill()
            self._child.wait()


def steps_done(folder: Path) -> int:
    """Decode steps that the decode process has reported."""
    try:
        return (folder / STEPS_FILE).read_bytes().count(b"\n")
    except FileNotFoundError:
        return 0


def progress_of(folder: Path) -> dict[str, list[int]]:
    """Bars of the decode process: name -> [done, total]."""
    return read_json(folder / PROGRESS_FILE) or {}


def session_status(folder: Path) -> dict[str, Any]:
    """The newest session's status in a daemon's log folder, empty before there is one."""
    files = sorted(folder.glob("*/status.json"))
    return (read_json(files[-1]) or {}) if files else {}


def read_json(path: Path) -> Any:
    """Content of a JSON file that is replaced atomically; None before it exists."""
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
