"""What a session compiles, its decode process waits for, and its lease may run out."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

KIT = Path(__file__).parents[1] / "kit"


def test_once_warmed_up_no_session_compiles_anything(folder: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(KIT), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run(
        [sys.executable, str(KIT / "first_steps.py"), str(folder), str(tmp_path)],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == []
