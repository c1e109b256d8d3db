"""Launches that are the same at every call: made one by one until they are warm, then captured once and replayed."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Generic, TypeVar

from hotset.runtime.gpu.device import Device

WARM_UPS = 2
"""Calls before one is captured: kernels compile, libraries choose theirs and take their memory."""
T = TypeVar("T")
logger = logging.getLogger(__name__)


class Captured(Generic[T]):
    """`what` names the launches in a warning, if they cannot be captured. `captures` False makes them one by one."""

    def __init__(self, device: Device, what: str, *, captures: bool) -> None:
        self._device, self._what, self._captures = device, what, captures
        self._calls = 0
        self._key: object = None
        self._replay: Callable[[], T] | None = None

    @property
    def captured(self) -> bool:
        """Whether they are replayed from a graph."""
        return self._replay is not None

    @property
    def warming(self) -> bool:
        """Whether the last call was one of those before the capture, or the first after it."""
        return 0 < self._calls <= WARM_UPS + self.captured

    def __call__(self, key: object, body: Callable[[], T]) -> T:
        """Launch what `body` launches; the host does not wait for it.

        What is captured holds for one `key`, which names all that `body` depends on beside the content of tensors that
        stay where they are; with another one it is made anew.
        """
        if key != self._key:
            self._key, self._calls, self._replay = key, 0, None
        if self._replay is None and self._captures and self._calls >= WARM_UPS:
            self._capture(body)
        self._calls += 1
        return body() if self._replay is None else self._replay()

    def _capture(self, body: Callable[[], T]) -> None:
        try:
            self._replay = self._device.capture(body)
        except RuntimeError as error:
            self._captures = False
            logger.warning("%s cannot be captured and runs uncaptured: %s", self._what, error)
