"""Messages leave on a thread, in the order in which they were put; a step's waits there until its copies have come.

The copies come just as the decode loop has the step's tokens and, where the next pass is not launched yet, is about to
launch it, while the device waits. Whoever wakes there takes the interpreter from the loop, so it holds back what it
puts until it has done what it can beside the pass.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from queue import Empty, SimpleQueue

from hotset.runtime.link.control import Published
from hotset.runtime.steering import Steering

logger = logging.getLogger(__name__)
Making = Callable[[], Published | None]
LONGEST_PAUSE = 0.05
"""Seconds after which what is held back leaves at any rate: no other step has come."""


class Outbox:
    """Starts its thread with the first message. `put`, `pause` and `go` never wait, and are the loop's."""

    def __init__(self) -> None:
        self._queue: SimpleQueue[tuple[Steering, Making] | None] = SimpleQueue()
        self._held: deque[tuple[Steering, Making]] = deque()
        self._pauses = False
        self._thread: threading.Thread | None = None

    def put(self, steering: Steering, making: Making) -> None:
        """Have `making` called on the thread and what it returns published by `steering`; None is a step lost."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="hotset-events", daemon=True)
            self._thread.start()
        if self._pauses:
            self._held.append((steering, making))
        else:
            self._queue.put((steering, making))

    def pause(self) -> None:
        """Hold back what is put from here on, until `go`."""
        self._pauses = True

    def go(self) -> None:
        """Let what was held back leave."""
        self._pauses = False
        while (item := self._next_held()) is not None:
            self._queue.put(item)

    def close(self) -> None:
        """Send everything that was put; a second call does nothing."""
        thread, self._thread = self._thread, None
        self.go()
        if thread is not None:
            self._queue.put(None)
            thread.join()

    def _next_held(self) -> tuple[Steering, Making] | None:
        try:
            return self._held.popleft()
        except IndexError:
            return None

    def _next(self) -> tuple[Steering, Making] | None:
        """The next message, None at the end."""
        while True:
            try:
                return self._queue.get(timeout=LONGEST_PAUSE)
            except Empty:
                if (item := self._next_held()) is not None:
                    return item

    def _run(self) -> None:
        while (item := self._next()) is not None:
            steering, making = item
            try:
                message = making()
                if message is None:
                    steering.lose_step()
                else:
                    steering.publish(message)
            except Exception:
                # Decoding must outlive any fault of what it tells.
                logger.exception("a message could not be made and is left out")
