"""Parts of a step are learned side by side: what is compiled runs without the interpreter's lock."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

from hotset.daemon.config import CORES_A_LEARNER, MOST_LEARNERS
from hotset.daemon.sequence import LaneStep


def default_threads() -> int:
    """For the cores that this process may use."""
    return max(1, min(MOST_LEARNERS, usable_cores() // CORES_A_LEARNER))


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


class Learners:
    """`threads` that learn, one of them whoever asks. Sessions share the others, and wait for none of them."""

    def __init__(self, threads: int = 1) -> None:
        """All threads start at once: nobody who watches the process shall see it grow later."""
        self.threads = threads
        self._others = ThreadPoolExecutor(threads - 1, "hotset-learn") if threads > 1 else None
        if self._others is not None:
            together = threading.Barrier(threads)
            for _ in range(threads - 1):
                self._others.submit(together.wait)
            together.wait()

    def observe(self, parts: Sequence[tuple[LaneStep, int]]) -> None:
        """Have each part's sequence, all different ones, observe so many lanes of it.

        Returns once all have; raises what one of them raised, and then, too, none is at work any more.
        """
        under_way = []
        try:
            if self._others is not None:
                under_way = [self._others.submit(part.sequence.observe, part, n) for part, n in parts[1:]]
            for i, (part, n) in enumerate(parts):
                # What the others have not begun, as another session keeps them busy, is not waited for.
                if i == 0 or not under_way or under_way[i - 1].cancel():
                    part.sequence.observe(part, n)
        finally:
            begun = [future for future in under_way if not future.cancelled()]
            wait(begun)
        for future in begun:
            future.result()

    def close(self) -> None:
        """End the threads; nothing may be under way."""
        if self._others is not None:
            self._others.shutdown()


ALONE = Learners()
"""Whoever asks learns by itself."""
