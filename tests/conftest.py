"""Triton decides when it is first imported whether its kernels are compiled or interpreted, so this comes first."""

import os
from pathlib import Path

from hypothesis import HealthCheck, settings

if not Path("/dev/nvidia0").exists():
    os.environ.setdefault("TRITON_INTERPRET", "1")

# Torch's threads spin while they wait, which starves tests that run beside each other on few cores.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# Compilation and shared cores make the first example of a test slow; no test is about time.
settings.register_profile("hotset", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("hotset")
