"""Writes a session's trace log on a thread of its own, so that neither disk nor compression delays a plan."""

from __future__ import annotations

import logging
import queue
import threading
import time
from contextlib import suppress
from pathlib import Path

from hotset.daemon.events import say
from hotset.daemon.state import LaneStep
from hotset.predictor.trace import TraceWriter
from hotset.protos.messages import Hello, Step
from hotset.protos.trace import STEP_COLUMNS, TraceMeta

QUEUE = 4096
"""sequence steps that wait to be written,"""
QUEUE_BYTES = 1 << 28
"""and bytes of them"""
PART_BYTES = 1 << 28
"""of a part in memory, at most about, whatever `rows_per_part` is"""
PLANNERS = ("", "heuristic", "learned")
"""by their number in the log"""


def trace_meta(hello: Hello) -> TraceMeta:
    """What the log says about where it was recorded."""
    shape = hello.geometry
    return TraceMeta(
        model=hello.model, kind="decode", layers=shape.layers, kv_heads=shape.kv_heads,
        page_size=shape.page_size, selected=shape.selected, candidates=shape.candidates,
        page_bytes=shape.page_bytes, session=hello.session, source=f"pid {hello.pid}",
        slots=shape.slots, builtin=hello.builtin_policy,
    )  # fmt: skip


class Recorder:
    """Appends to a log folder. When the disk fails, logging ends, `failed` says why, and the session goes on."""

    def __init__(
        self,
        folder: Path,
        meta: TraceMeta,
        *,
        rows_per_part: int,
        flush_seconds: float,
        lookahead: tuple[int, ...] = (),
    ) -> None:
        """The log has a column of ranks for each distance in `lookahead`. Raises TraceError if it cannot be begun."""
        self.folder = folder
        self.logged = 0
        self.dropped = 0
        self.written = 0
        """Bytes on disk, as of the last flush."""
        self.failed = ""
        self._writer = TraceWriter(folder, meta, rows_per_part=rows_per_part, lookahead=lookahead)
        self._flush_seconds = flush_seconds
        self._put = self._taken = self._pending = 0
        """Bytes that ever went into the queue, and came out of it; and those that the writer holds."""
        self._step_bytes = 32 * meta.layers * meta.kv_heads + 6 * meta.layers * meta.kv_heads * meta.candidates
        self._queue: queue.Queue[tuple[LaneStep, int] | dict[str, int] | threading.Event | None] = queue.Queue(QUEUE)
        self._thread = threading.Thread(target=self._run, name="hotset-log", daemon=True)
        self._thread.start()

    def note(self, step: Step, planner: str) -> None:
        """Log what the runtime said of a step, before its parts; lost if the writer cannot keep up. Never blocks."""
        told = {name: getattr(step.stats, name, 0) for name in STEP_COLUMNS}
        with suppress(queue.Full):
            self._queue.put_nowait({**told, "epoch": step.epoch, "planner": PLANNERS.index(planner)})

    def append(self, part: LaneStep, epoch: int) -> None:
        """Log one sequence's part of a step; counted as dropped if the writer cannot keep up. Never blocks."""
        if self._put - self._taken > QUEUE_BYTES:
            self.dropped += 1
            return
        try:
            self._queue.put_nowait((part, epoch))
            self._put += _bytes(part)
        except queue.Full:
            self.dropped += 1

    def flush(self) -> threading.Event:
        """Set once everything is on disk that was appended so far; at once if the queue is full."""
        done = threading.Event()
        try:
            self._queue.put_nowait(done)
        except queue.Full:
            done.set()
        return done

    def close(self) -> None:
        """Write what is pending and stop."""
        self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        due = time.monotonic() + self._flush_seconds
        while True:
            try:
                item = self._queue.get(timeout=max(0.0, due - time.monotonic()))
            except queue.Empty:
                item = threading.Event()
            if isinstance(item, dict):
                if not self.failed:
                    self._writer.note(item)
            elif isinstance(item, tuple):
                self._taken += _bytes(item[0])
                self._guarded(*item)
            else:
                self._guarded()
                due = time.monotonic() + self._flush_seconds
                if item is None:
                    return
                item.set()

    def _guarded(self, part: LaneStep | None = None, epoch: int = 0) -> None:
        """Append a part, or flush if there is none."""
        if self.failed:
            self.dropped += part is not None
            return
        try:
            if part is not None:
                self._append(part, epoch)
            if part is None or self._pending > PART_BYTES:
                self._pending = 0
                self._writer.flush()
                self.written = self._writer.written
        except Exception as error:  # noqa: BLE001 - without its thread the queue would fill, and `close` wait for room
            self.failed = str(error) or repr(error)
            say(logging.ERROR, "log_failed", folder=str(self.folder), reason=self.failed)

    def _append(self, part: LaneStep, epoch: int) -> None:
        self._pending += self._step_bytes
        self._writer.append(
            sequence=part.sequence.id, step=part.step, epoch=epoch, length=part.length,
            pages=part.pages, scores=part.scores, flags=part.flags, lookahead=part.lookahead,
        )  # fmt: skip
        self.logged += 1


def _bytes(part: LaneStep) -> int:
    return part.pages.nbytes + part.scores.nbytes + part.flags.nbytes
