"""Files and folders that appear whole or not at all, whenever the process is killed."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from hotset.training.errors import TrainingError


def make_folder(path: Path) -> Path:
    """Create `path` with its parents; TrainingError if something else is there or it may not be written."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise TrainingError(f"{path}: cannot be used as a folder for results: {error.strerror}") from error
    return path


@contextmanager
def scratch_folder(parent: Path, purpose: str) -> Iterator[Path]:
    """A temporary folder in `parent`, removed at the end; those that killed processes left are removed too.

    Two trainings must not share `parent`.
    """
    for stray in parent.glob(f".{purpose}-*"):
        shutil.rmtree(stray, ignore_errors=True)
    with tempfile.TemporaryDirectory(dir=parent, prefix=f".{purpose}-") as folder:
        yield Path(folder)


def replace_folder(path: Path, fill: Callable[[Path], None]) -> Path:
    """Let `fill` write a fresh folder beside `path`, then put it in the place of what was there."""
    with scratch_folder(path.parent, path.name) as scratch:
        fresh = scratch / "fresh"
        fresh.mkdir()
        fill(fresh)
        for file in fresh.rglob("*"):
            _sync(file)
        if path.exists():
            path.rename(scratch / "old")
        fresh.rename(path)
    return path


def write_atomically(path: Path, text: str) -> None:
    """Write a file under a temporary name, sync it, and rename it into place."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text)
    _sync(temporary)
    temporary.replace(path)


def _sync(path: Path) -> None:
    if path.is_file():
        with path.open("rb") as file:
            os.fsync(file.fileno())
