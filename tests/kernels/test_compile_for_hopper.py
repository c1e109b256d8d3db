"""The kernels that run in the interpreter here also compile for the GPU, without spilling registers."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton.backends.nvidia")


def test_kernels_compile_and_spill_nothing(tmp_path: Path) -> None:
    script = Path(__file__).with_name("compile_for_hopper.py")
    env = {**os.environ, "TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path)}
    run = subprocess.run([sys.executable, script], env=env, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr[-2000:]
    lines = run.stdout.splitlines()
    assert lines
    assert [line for line in lines if re.search(r"[1-9]\d* bytes spilled", line)] == []
