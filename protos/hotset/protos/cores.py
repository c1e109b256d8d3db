"""How many cores a process may use, which containers and units bound as well as the machine."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path


def usable_cores(processes: Path = Path("/proc"), control_groups: Path = Path("/sys/fs/cgroup")) -> int:
    """By affinity, and by what its control groups (version 2) may use of each period: a container's limit, a unit's."""
    cores = float(len(os.sched_getaffinity(0)))
    with contextlib.suppress(OSError):
        own = (processes / "self" / "cgroup").read_text().rpartition("::")[2].strip().strip("/")
        for group in (control_groups / own, *(control_groups / own).parents):
            if group.is_relative_to(control_groups) and (limit := group / "cpu.max").exists():
                quota, period = limit.read_text().split()
                cores = min(cores, float("inf") if quota == "max" else int(quota) / int(period))
    return max(1, int(cores))
