"""Messages leave on a thread, in the order in which they were put; a step's waits there until its copies have come.

The copies come just as the decode loop has the step's tokens and is about to launch the next pass, while the device
waits for it. Both need the interpreter, so the thread does its work once the pass is launched.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from queue import SimpleQueue

from hotset.runtime.link.control import Published
from hotset.runtime.steering import Steering

logger = logging.getLogger(__name__)
Making = Callable[[], Published | None]


LONGEST_PAUSE = 0.05
"""seconds"""


class Outbox:
    """Starts its thread with the first message. `put` never waits."""

    def __init__(self) -> None:
        self._goes = threading.Event()
        self._goes.set()
        self._queue: SimpleQueue[tuple[Steering, Making] | None] = SimpleQueue()
        self._thread: threading.Thread | None = None

    def put(self, steering: Steering, making: Making) -> None:
        """Have `making` called on the thread and what it returns published by `steering`; None is a step lost."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="hotset-events", daemon=True)
            self._thread.start()
        self._queue.put((steering, making))

    def pause(self) -> None:
        """The loop needs the interpreter for itself, until `go` but for no longer than LONGEST_PAUSE."""
        self._goes.clear()

    def go(self) -> None:
        """The thread may work."""
        self._goes.set()

    def close(self) -> None:
        """Send everything that was put; a second call does nothing."""
        self.go()
        thread, self._thread = self._thread, None
        if thread is not None:
            self._queue.put(None)
            thread.join()

    def _run(self) -> None:
        while (item := self._queue.get()) is not None:
            self._goes.wait(LONGEST_PAUSE)
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
