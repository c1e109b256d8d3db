"""Observers of any number of decode processes, without a thread of their own: call `poll` often, `cut` once a frame."""

from __future__ import annotations

import json
import time
from collections import deque
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hotset.daemon.connection import Connection
from hotset.ops import runtimes
from hotset.ops.top.window import Window
from hotset.protos.errors import HotsetError
from hotset.protos.messages import Detach, Error, Geometry, Hello, SequenceClose, SequenceOpen, Step
from hotset.protos.transport import CurveKeys, ZmqClient

ASK_SECONDS = 2.0
SILENT_SECONDS = 5.0
FIND_SECONDS = 1.0
HISTORY = 240
AT_ONCE = 512
FADE = 0.7


class Observed:
    """One decode process, attached to as a read-only observer. `row` is what `cut` made of the last interval."""

    def __init__(self, endpoint: str, keys: CurveKeys | None) -> None:
        self.endpoint = endpoint
        self.hello: Hello | None = None
        self.trouble = ""
        self.moved_bytes = 0
        self.history: deque[dict[str, Any]] = deque(maxlen=HISTORY)
        self.row: dict[str, Any] = {}
        self.selected: npt.NDArray[np.float64] = np.zeros(0)
        self.missed: npt.NDArray[np.float64] = np.zeros(0)
        self._window: Window | None = None
        self._last: Step | None = None
        self._connection: Connection | None = None
        self._heard = self._asked = time.monotonic()
        try:
            self._connection = Connection(ZmqClient(endpoint, keys=keys), "hotset-top")
            self._connection.attach("observer")
        except HotsetError as error:
            self.trouble = str(error)

    @property
    def geometry(self) -> Geometry | None:
        """None before it has answered."""
        return self.hello.geometry if self.hello else None

    def poll(self) -> None:
        """Take in what has come, and ask who controls it from time to time."""
        if self._connection is None:
            return
        now = time.monotonic()
        try:
            for _ in range(AT_ONCE):
                if (received := self._connection.receive(0)) is None:
                    break
                self._heard = now
                self._take(received.message, received.missing)
        except HotsetError as error:
            self.close()
            self.trouble = str(error)
            return
        if now - self._asked > ASK_SECONDS:
            self._asked = now
            self._connection.attach("observer")

    def cut(self, seconds: float, view: dict[str, Any] | None) -> None:
        """End an interval; `view` is the daemon's status of this session, if there is one."""
        window, hello = self._window, self.hello
        if window is not None and hello is not None:
            self._window = Window(hello.geometry.lanes)
            self._last = window.last or self._last
            self.moved_bytes += window.moved_bytes
            self.selected = FADE * self.selected + window.selected
            self.missed = FADE * self.missed + window.missed
            self.history.append(window.summary(seconds))
        silent = time.monotonic() - self._heard > SILENT_SECONDS
        self.row = self._row(self.trouble or ("does not answer" if silent or hello is None else ""), view or {})

    def close(self) -> None:
        """Detach."""
        if self._connection is not None:
            self._connection.send(Detach(reason="stopped watching"))
            self._connection.close()
            self._connection = None

    def _take(self, message: object, missing: int) -> None:
        if isinstance(message, Hello):
            if self.hello is None:
                lanes = message.geometry.lanes
                self._window, self.selected, self.missed = Window(lanes), np.zeros(lanes), np.zeros(lanes)
            self.hello = message
        elif isinstance(message, Error):
            self.trouble = f"{message.code}: {message.reason}"
        elif self._window is not None:
            self._window.lost += missing
            if isinstance(message, Step):
                self._window.add(message)
            elif isinstance(message, SequenceOpen | SequenceClose):
                self._asked = 0.0  # its number of sequences has changed: ask again

    def _row(self, trouble: str, view: dict[str, Any]) -> dict[str, Any]:
        hello, recent = self.hello, (self.history[-1] if self.history else Window(1).summary(1.0))
        stats = self._last.stats if self._last else None
        shape = self.geometry
        return {
            "pid": hello.pid if hello else None,
            "session": hello.session if hello else "",
            "endpoint": self.endpoint,
            "model": hello.model if hello else "",
            "controller": (hello.holder or "none") if hello else "",
            "trouble": trouble,
            "epoch": self._last.epoch if self._last else hello.epoch if hello else 0,
            **recent,
            "running": len(self._last.sequences) if self._last else hello.sequences if hello else 0,
            "paused": stats.paused if stats else 0,
            "waiting": stats.waiting if stats else 0,
            "moved_bytes": self.moved_bytes,
            "reserve": stats.reserve if stats else 0,
            "free": stats.free if stats else 0,
            "slots": shape.slots if shape else 0,
            "hot_slots": (stats.hot_slots if stats else 0) or (shape.slots if shape else 0),
            "plans_applied": stats.plans_applied if stats else 0,
            "entries_applied": stats.entries_applied if stats else 0,
            "entries_rejected": dict(stats.entries_rejected) if stats else {},
            "device_model": stats.device_model if stats else "",
            "planner": view.get("source", ""),
            "model_version": view.get("model_version", ""),
            "plan_seconds": view.get("plan_seconds", {}),
            "log": view.get("log", ""),
        }


class Watcher:
    """Everything that decodes here, or only the given endpoints; new processes join and ended ones go."""

    def __init__(self, endpoints: list[str], keys: CurveKeys | None, log_dir: Path) -> None:
        self.observed: dict[str, Observed] = {}
        self._fixed, self._keys, self._log_dir = endpoints, keys, log_dir
        self._found = 0.0
        self._cut_at = time.monotonic()
        self.find()

    def find(self) -> None:
        """Attach to who is new, forget who is gone."""
        self._found = time.monotonic()
        now = self._fixed or [entry.endpoint for entry in runtimes.running()]
        for endpoint in [e for e in self.observed if e not in now]:
            self.observed.pop(endpoint).close()
        for endpoint in now:
            if endpoint not in self.observed:
                keys = self._keys if endpoint.startswith("tcp://") else None
                self.observed[endpoint] = Observed(endpoint, keys)

    def poll(self) -> None:
        """Take in what has come from everybody."""
        if time.monotonic() - self._found > FIND_SECONDS:
            self.find()
        for one in self.observed.values():
            one.poll()

    def cut(self) -> list[dict[str, Any]]:
        """End an interval; one row a process, in the order in which they were found."""
        now = time.monotonic()
        seconds, self._cut_at = max(1e-3, now - self._cut_at), now
        views = daemon_views(self._log_dir)
        for one in self.observed.values():
            one.cut(seconds, views.get(one.hello.session) if one.hello else None)
        return [one.row for one in self.observed.values()]

    def close(self) -> None:
        """Detach from everybody."""
        for one in self.observed.values():
            one.close()


def daemon_views(log_dir: Path) -> dict[str, dict[str, Any]]:
    """The newest status of each session that a daemon controls now, by session, out of its log folder."""
    views: dict[str, dict[str, Any]] = {}
    for path in log_dir.glob("*/status.json"):
        try:
            status = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if not isinstance(status, dict) or status.get("role") != "controller":
            continue
        before = views.get(status.get("session", ""))
        if before is None or before.get("updated", 0) < status.get("updated", 0):
            views[status.get("session", "")] = status
    return views
