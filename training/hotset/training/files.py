"""Files and folders that appear whole or not at all, whenever the process is killed."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from hotset.training.errors import TrainingError


def make_folder(path: Path) -> Path:
    """Create `path` with its parents; TrainingError if something else is there or it may not be written."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise TrainingError(f"{path}: cannot be used as a folder for results: {error.strerror}") from error
    return path


def replace_folder(path: Path, fill: Callable[[Path], None]) -> Path:
    """Let `fill` write a fresh folder beside `path`, then put it in the place of what was there."""
    scratch = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}-"))
    try:
        fresh = scratch / "fresh"
        fresh.mkdir()
        fill(fresh)
        for file in fresh.rglob("*"):
            _sync(file)
        if path.exists():
            path.rename(scratch / "old")
        fresh.rename(path)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
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
