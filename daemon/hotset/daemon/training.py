"""Training in a child process at low priority; the step path never waits for it."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from hotset.daemon.scorers import LearnedScorer
from hotset.protos.errors import ModelError

JOB_MODULE = "hotset.training.job"
RESULT_NAME = "result.json"
STOP_SECONDS = 5.0
"""for a child to end when it is asked to"""
_children: set[subprocess.Popen[bytes]] = set()


def kill_all() -> None:
    """End every training now; for a daemon that does not wait for its own end."""
    for child in list(_children):
        child.kill()


class TrainingResult(BaseModel):
    """What the training job leaves in `result.json`."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    model: Path
    version: str | int = ""
    promoted: bool = False
    reason: str = ""
    metrics: dict[str, Any] = {}
    mlflow_run: dict[str, Any] | str = ""


class Training:
    """One run of the job. When `done`, either `scorer` and `result` are set, or `error` says why not."""

    def __init__(self, log: Path, folder: Path, arguments: tuple[str, ...], niceness: int) -> None:
        self.result: TrainingResult | None = None
        self.scorer: LearnedScorer | None = None
        self.error = ""
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", JOB_MODULE, "--log", str(log), "--out", str(folder), *arguments]
        with (folder / "output.txt").open("wb") as output:
            self._child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT)
        _children.add(self._child)
        # The child lowers nobody but itself, and a fork hook in a threaded process would be unsafe.
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, self._child.pid, niceness)
        self._thread = threading.Thread(target=self._finish, name="hotset-training", daemon=True)
        self._thread.start()

    @property
    def done(self) -> bool:
        """Whether the child has ended and its model, if any, is loaded and warm."""
        return not self._thread.is_alive()

    def stop(self) -> None:
        """End the child if it still runs."""
        if self._child.poll() is None:
            self._child.terminate()
        self._thread.join(STOP_SECONDS)
        # One that is stopped, or hangs in its own end, must not keep the daemon from its.
        self._child.kill()
        self._thread.join()

    def _finish(self) -> None:
        code = self._child.wait()
        _children.discard(self._child)
        try:
            if code != 0:
                raise ModelError(f"the training job ended with {code}: {self._last_line()}")
            self.result = read_result(self._folder / RESULT_NAME)
            self.scorer = LearnedScorer.load(self.result.model)
        except ModelError as error:
            self.error = str(error)

    def _last_line(self) -> str:
        text = (self._folder / "output.txt").read_text(encoding="utf-8", errors="replace")
        lines = text.strip().splitlines()
        return lines[-1][:300] if lines else "it said nothing"


def read_result(path: Path) -> TrainingResult:
    """Read what a training left. Raises ModelError if the file is missing or not what it should be."""
    try:
        result = TrainingResult.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise ModelError(f"{path} does not say what was trained: {str(error).splitlines()[0]}") from None
    if not result.model.is_absolute():
        return result.model_copy(update={"model": path.parent / result.model})
    return result
