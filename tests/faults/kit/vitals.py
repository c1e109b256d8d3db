"""What a process holds, from /proc: threads, descriptors, memory."""

from __future__ import annotations

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
