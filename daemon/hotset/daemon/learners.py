"""Parts of a step are learned side by side: what is compiled runs without the interpreter's lock."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, wait

from hotset.daemon.config import CORES_A_LEARNER, MOST_LEARNERS
from hotset.daemon.sequence import LaneStep
from hotset.protos.cores import usable_cores


def default_threads() -> int:
    """For the cores that this process may use."""
    return max(1, min(MOST_LEARNERS, usable_cores() // CORES_A_LEARNER))


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
