"""Importing large libraries, which is most of what a command takes to start and to end."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def large_imports() -> Iterator[None]:
    """Import torch, transformers or numba within this, and the command starts and ends in two thirds of the time.

    What they bring stays for good, but the collector looks through all of it again and again while it grows, and
    once more at exit. So it rests meanwhile, and never looks at it afterwards.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if was_enabled:
            gc.enable()
