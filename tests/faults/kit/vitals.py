"""What a process holds, from /proc: threads, descriptors, memory."""

from __future__ import annotations

import time
from pathlib import Path
from typing import NamedTuple


class Vitals(NamedTuple):
    """Counts, and resident memory in bytes that is not shared with files (RssAnon of proc_pid_status(5))."""

    threads: int
    descriptors: int
    memory: int


def vitals(pid: int) -> Vitals:
    """What the process holds now."""
    proc = Path(f"/proc/{pid}")
    fields = dict(line.split(":", 1) for line in (proc / "status").read_text().splitlines())
    descriptors = len(list((proc / "fd").iterdir()))
    return Vitals(int(fields["Threads"]), descriptors, int(fields["RssAnon"].split()[0]) << 10)


def settled(pid: int, seconds: float = 1.0) -> Vitals:
    """The least of each that a process holds within some seconds: what passes by is no leak."""
    seen, end = [vitals(pid)], time.monotonic() + seconds
    while time.monotonic() < end:
        time.sleep(0.1)
        seen.append(vitals(pid))
    return Vitals(*(min(values) for values in zip(*seen, strict=True)))
