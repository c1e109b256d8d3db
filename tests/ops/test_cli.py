"""What the command line says of an installation that cannot work."""

from __future__ import annotations

import os
import subprocess
import sys


def test_nowhere_to_keep_compiled_code_is_one_line() -> None:
    """As for a user without a home folder, whose hotset is root's."""
    only = {"NUMBA_CACHE_LOCATOR_CLASSES": "UserProvidedCacheLocator"}
    names = {name: value for name, value in os.environ.items() if name != "NUMBA_CACHE_DIR"} | only
    command = [sys.executable, "-m", "hotset.ops", "models"]
    done = subprocess.run(command, env=names, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("hotset: compiled code can be kept neither")
    assert "NUMBA_CACHE_DIR" in done.stderr
    assert len(done.stderr.splitlines()) == 1
