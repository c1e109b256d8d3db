"""Real processes: `hotset` commands on a tiny random checkpoint, in a runtime folder of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from checkpoints import write_checkpoint
from processes import Start, wait_for
from sandbox import hotset, trace

__all__ = ["checkpoint", "decode_arguments", "hotset", "runtime_dir", "serve", "start", "trace"]


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama checkpoint folder with a word tokenizer; random weights."""
    folder = tmp_path_factory.mktemp("checkpoint")
    write_checkpoint(folder)
    return folder


@pytest.fixture
def runtime_dir(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A private folder for discovery files, for this process and its children."""
    folder = tmp_path_factory.mktemp("rt")
    folder.chmod(0o700)
    monkeypatch.setenv("HOTSET_RUNTIME_DIR", str(folder))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return folder


@pytest.fixture
def start(runtime_dir: Path, tmp_path: Path) -> Iterator[Start]:
    """Start a `hotset` command in the background; all of them are killed at the end."""
    children: list[subprocess.Popen[bytes]] = []

    def run(*arguments: object) -> subprocess.Popen[bytes]:
        output = (tmp_path / f"{len(children)}-{arguments[0]}.log").open("wb")
        child = subprocess.Popen(
            [sys.executable, "-m", "hotset.ops", *map(str, arguments)], stdout=output, stderr=subprocess.STDOUT,
            env=os.environ.copy(),
        )  # fmt: skip
        output.close()
        children.append(child)
        return child

    yield run
    for child in children:
        child.kill()
        child.wait()


@pytest.fixture
def serve(start: Start, tmp_path: Path) -> Start:
    """Start `hotset daemon` and wait until it serves: until then it may compile for as long as a decode lasts."""

    def run(*arguments: object) -> subprocess.Popen[bytes]:
        child = start("daemon", *arguments)
        output = max(tmp_path.glob("*-daemon.log"), key=lambda file: int(file.name.partition("-")[0]))
        wait_for(lambda: child.poll() is not None or "event=serving" in output.read_text(), "the daemon serves")
        assert child.poll() is None, output.read_text()
        return child

    return run


@pytest.fixture
def decode_arguments(checkpoint: Path, tmp_path: Path) -> Callable[[str], list[object]]:
    """Arguments of a decode of two prompts into `tmp_path/NAME`."""
    for i in range(2):
        (tmp_path / f"prompt{i}.txt").write_text(" ".join(f"w{(i * 5 + j * j) % 64}" for j in range(300 - 30 * i)))

    def arguments(name: str) -> list[object]:
        files = [a for i in range(2) for a in ("--prompt-file", tmp_path / f"prompt{i}.txt")]
        return ["decode", "--model", checkpoint, *files, "--out", tmp_path / name, "--page-size", 8, "--selected", 8,
                "--hbm-fraction", 0.4, "--threads", 1, "--ignore-eos"]  # fmt: skip

    return arguments
