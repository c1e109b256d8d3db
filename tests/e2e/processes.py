"""What the end-to-end tests share: waiting, reading what processes write, running commands."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

PATIENCE_SECONDS = 90.0
Start = Callable[..., "subprocess.Popen[bytes]"]


def wait_for(condition: Callable[[], Any], what: str) -> Any:
    """What `condition` returns once it is true; fails the test if it never is."""
    end = time.monotonic() + PATIENCE_SECONDS
    while not (value := condition()):
        assert time.monotonic() < end, f"never happened: {what}"
        time.sleep(0.05)
    return value


def steps_of(out: Path) -> list[dict[str, Any]]:
    """Step reports that a decode process has written so far."""
    file = out / "steps.jsonl"
    lines = file.read_text().splitlines(keepends=True) if file.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def statuses(log_dir: Path) -> list[dict[str, Any]]:
    """Every session's status below a daemon's log folder, oldest first."""
    return [json.loads(f.read_text()) for f in sorted(log_dir.glob("*/status.json"))]


def hotset(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run a `hotset` command to its end."""
    command = [sys.executable, "-m", "hotset.ops", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE_SECONDS)
