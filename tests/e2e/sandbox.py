"""Engines without a model (`hotset play`) and real daemons, in processes and a runtime folder of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hotset.predictor.trace import TraceWriter
from hotset.protos.messages import AccessFlag
from hotset.protos.trace import TraceMeta

WAIT = 180.0
"""Seconds to wait for what must come; a machine that is busy with other tests takes several times its usual time."""
META = TraceMeta(model="tiny", layers=4, kv_heads=2, page_size=4, selected=8, candidates=16, page_bytes=64)
Command = Sequence[str]
HOTSET: Command = (sys.executable, "-m", "hotset.ops")


def write_trace(folder: Path, *, steps: int = 150, meta: TraceMeta = META) -> None:
    """Two sequences whose selection drifts slowly, as real ones do; the prompt is 60 pages."""
    writer, rng = TraceWriter(folder, meta, rows_per_part=1 << 20), np.random.default_rng(0)
    lanes, first = meta.layers * meta.kv_heads, 60 * meta.page_size + 1
    heat = rng.normal(size=(2, lanes, 60))
    for step in range(steps):
        heat += rng.normal(scale=0.3, size=heat.shape)
        for sequence in range(2):
            order = np.argsort(-heat[sequence], axis=1)[:, : meta.candidates]
            pages = np.sort(order.astype(np.int32), axis=1)
            score = np.take_along_axis(heat[sequence], pages, axis=1)
            chosen = np.argsort(np.argsort(-score, axis=1), axis=1) < meta.selected
            flags = (chosen * np.uint8(AccessFlag.SELECTED)).astype(np.uint8)
            scores = np.clip(150 + 20 * score, 0, 255).astype(np.uint8)
            writer.append(
                sequence=sequence, step=step, epoch=step, length=first + step, pages=pages, scores=scores, flags=flags,
            )  # fmt: skip
    writer.close()


class Hotset:
    """Runs the command line in processes of its own, in a runtime folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.logs = folder / "logs"
        self.runtime = folder / "run"
        self.folder = folder
        self.environment = os.environ | {
            "HOTSET_RUNTIME_DIR": str(self.runtime), "HOTSET_MLFLOW": f"sqlite:///{folder}/mlflow.db",
            "OMP_NUM_THREADS": "1",
        }  # fmt: skip
        self.processes: list[subprocess.Popen[str]] = []

    def start(self, *arguments: object, command: Command = HOTSET, **environment: str) -> subprocess.Popen[str]:
        """Start `hotset ARGUMENTS` (or another command) in the background; what it says on stderr is in `said`."""
        with self._errors(len(self.processes)).open("wb") as errors:
            process = subprocess.Popen(
                [*command, *map(str, arguments)],
                env=self.environment | environment, stdout=subprocess.PIPE, stderr=errors, text=True,
            )  # fmt: skip
        self.processes.append(process)
        return process

    def daemon(self, *arguments: object, **options: Any) -> subprocess.Popen[str]:
        """A daemon that watches already."""
        process = self.start("daemon", "--log-dir", self.logs, *arguments, **options)
        until(lambda: "event=serving" in self.said(process))
        return process

    def endpoint(self, engine: subprocess.Popen[str]) -> str:
        """Where a decode process listens, once it does."""
        until((self.runtime / f"{engine.pid}.json").exists, 2 * WAIT)
        return f"ipc://{self.runtime}/{engine.pid}.sock"

    def said(self, process: subprocess.Popen[str]) -> str:
        """What a process wrote to stderr so far."""
        return self._errors(self.processes.index(process)).read_text()

    def _errors(self, number: int) -> Path:
        return self.folder / f"{number}.err"

    def run(self, *arguments: object, patience: float = WAIT) -> subprocess.CompletedProcess[str]:
        """Run `hotset ARGUMENTS` to its end."""
        return subprocess.run(
            [sys.executable, "-m", "hotset.ops", *map(str, arguments)],
            env=self.environment, capture_output=True, text=True, check=False, timeout=patience,
        )  # fmt: skip

    def ps(self) -> list[dict[str, Any]]:
        listed: list[dict[str, Any]] = json.loads(self.run("ps", "--json").stdout)
        return listed

    def statuses(self) -> list[dict[str, Any]]:
        """Of all sessions so far, oldest first."""
        read = [json.loads(path.read_text()) for path in self.logs.glob("*/status.json")]
        return sorted(read, key=lambda status: float(status["started"]))

    def account(self) -> str:
        """What all processes said in the end, and what the sessions went through, for whoever looks into a failure."""
        lines = []
        for number, process in enumerate(self.processes):
            lines += [f"== {process.args!r} (pid {process.pid}, status {process.poll()})"]
            lines += self._errors(number).read_text(errors="replace").splitlines()[-20:]
        for path in sorted(self.logs.glob("*/status.json")):
            lines += [f"== {path}", path.read_text(errors="replace")[:4000]]
        return "\n".join(lines)

    def close(self) -> None:
        for process in self.processes:
            process.kill()
            process.communicate()


@pytest.fixture(scope="session")
def trace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recorded trace to play. A conftest.py that imports it and `hotset` has them."""
    folder = tmp_path_factory.mktemp("trace") / "log"
    write_trace(folder)
    return folder


@pytest.fixture
def hotset(tmp_path: Path) -> Iterator[Hotset]:
    """Processes in folders of their own."""
    made = Hotset(tmp_path)
    yield made
    try:
        print(made.account())  # pytest shows it where the test failed
    finally:
        made.close()


def until(condition: Callable[[], Any], patience: float = WAIT) -> None:
    """Wait for a condition; fails the test if it never holds."""
    end = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def planned(status: dict[str, Any]) -> int:
    """Plans that a session has sent."""
    return int(status["counters"]["plans_sent"])
