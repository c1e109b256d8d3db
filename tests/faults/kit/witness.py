"""An observer that compares every step it hears of with the trace that the engine plays."""

from __future__ import annotations

import threading
import time
from typing import Any

import numpy as np

from hotset.daemon.connection import Connection
from hotset.predictor.trace import Trace
from hotset.protos.messages import AccessFlag, Error, Hello, Step
from hotset.protos.transport import ZmqClient


class Witness(threading.Thread):
    """Attached read-only to one `hotset play` until `close`, which raises what was wrong."""

    def __init__(self, endpoint: str, trace: Trace) -> None:
        super().__init__(daemon=True)
        self.steps = 0
        self.epoch = 0
        """Of the newest step; a witness that is slow misses some before it."""
        self.plans = 0
        """Plans that the engine applied so far."""
        self.dropped = 0
        """Step messages that the engine could not deliver to somebody."""
        self.holder = ""
        self.refusals: list[str] = []
        self._trace = trace
        self._connection = Connection(ZmqClient(endpoint), "witness")
        self._end = threading.Event()
        self._fault: BaseException | None = None
        self.start()

    def run(self) -> None:
        """Listen until closed."""
        try:
            self._connection.attach("observer")
            while not self._end.is_set():
                self._hear(self._connection.receive(0.05))
        except BaseException as fault:  # noqa: BLE001 - raised again by `close`, on the test's thread
            self._fault = fault
        finally:
            self._connection.close()

    def close(self) -> None:
        """Stop listening; raises AssertionError if a step was not as recorded."""
        self._end.set()
        self.join(10)
        if self._fault is not None:
            raise self._fault
        assert not self.refusals, self.refusals

    def hears(self, steps: int = 10, plans: int = 0, within: float = 60.0) -> None:
        """Wait until that many more steps, and applied plans, were heard of."""
        goal, end = (self.steps + steps, self.plans + plans), time.monotonic() + within
        while self.steps < goal[0] or self.plans < goal[1]:
            assert self._fault is None, self._fault
            heard = f"step {self.steps} of {goal[0]}, plan {self.plans} of {goal[1]}"
            assert time.monotonic() < end, f"waited in vain for {heard}"
            time.sleep(0.01)

    def waits_for(self, epoch: int, within: float) -> None:
        """Wait until the engine has come to a step."""
        end = time.monotonic() + within
        while self.epoch < epoch:
            assert self._fault is None, self._fault
            assert time.monotonic() < end, f"waited in vain at step {self.epoch} for {epoch}"
            time.sleep(0.01)

    def _hear(self, received: Any) -> None:
        message = received.message if received is not None else None
        if isinstance(message, Step):
            self._compare(message)
            self.steps += 1
            self.epoch = message.epoch
            self.plans = message.stats.plans_applied
            self.dropped = message.stats.steps_dropped
        elif isinstance(message, Hello):
            self.holder = message.holder
        elif isinstance(message, Error):
            self.refusals.append(f"{message.code}: {message.reason}")

    def _compare(self, step: Step) -> None:
        recorded = self._trace.sequences
        parts = [(recorded[s % len(recorded)], row) for s, row in zip(step.sequences, step.sequence_steps, strict=True)]
        pages = np.concatenate([sequence.pages[row] for sequence, row in parts])
        selected = np.concatenate([sequence.selected[row] for sequence, row in parts])
        np.testing.assert_array_equal(step.candidates, pages)
        np.testing.assert_array_equal((step.flags & AccessFlag.SELECTED) != 0, selected)
        lengths = [sequence.lengths[row] for sequence, row in parts]
        np.testing.assert_array_equal(step.lengths, lengths)
