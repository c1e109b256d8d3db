"""How the log is written: lines of text or of JSON on stderr, and repeats held back."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Literal, TextIO

BURST = 5
SECONDS = 60.0
_MOST_KEYS = 1024


class Repeats(logging.Filter):
    """Lets an event of a session through `burst` times in `seconds`; the next one that passes says how many did not."""

    def __init__(
        self, burst: int = BURST, seconds: float = SECONDS, clock: Callable[[], float] = time.monotonic
    ) -> None:
        super().__init__()
        self._burst, self._seconds, self._clock = burst, seconds, clock
        # When the window of a key began, what it let through, and what not. Oldest keys are forgotten.
        self._seen: OrderedDict[tuple[object, ...], tuple[float, int, int]] = OrderedDict()

    def filter(self, record: logging.LogRecord) -> bool:
        """Called by logging, under the handler's lock or not: losing a count to a race is harmless."""
        fields = getattr(record, "fields", {})
        key = (record.levelno, getattr(record, "event", record.msg), fields.get("session"))
        now = self._clock()
        began, passed, held = self._seen.pop(key, (now, 0, 0))
        if now - began >= self._seconds:
            began, passed = now, 0
        passes = passed < self._burst
        self._seen[key] = (began, passed + 1, 0) if passes else (began, passed, held + 1)
        if len(self._seen) > _MOST_KEYS:
            self._seen.popitem(last=False)
        if passes and held:
            record.repeated = held
        return passes


class TextFormatter(logging.Formatter):
    """`2026-01-31T12:00:00.000Z level=info event=... key=value ...`, in UTC."""

    def format(self, record: logging.LogRecord) -> str:
        """One line; a traceback follows on lines of its own."""
        text = record.getMessage() if hasattr(record, "event") else f"event=message text={record.getMessage()!r}"
        line = f"{_time(record)} level={record.levelname.lower()} {text}"
        if (held := getattr(record, "repeated", 0)) > 0:
            line += f" repeated={held}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


class JsonFormatter(logging.Formatter):
    """One object a line: `time`, `level`, `event` and the event's fields."""

    def format(self, record: logging.LogRecord) -> str:
        """Never fails: what JSON does not know is shown as text."""
        said: dict[str, Any] = {"time": _time(record), "level": record.levelname.lower()}
        if hasattr(record, "event"):
            said |= {"event": record.event} | getattr(record, "fields", {})
        else:
            said |= {"event": "message", "text": record.getMessage(), "logger": record.name}
        if (held := getattr(record, "repeated", 0)) > 0:
            said["repeated"] = held
        if record.exc_info:
            said["traceback"] = self.formatException(record.exc_info)
        return json.dumps(said, default=str)


def _time(record: logging.LogRecord) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z"


def set_up(style: Literal["text", "json"], level: str, stream: TextIO | None = None) -> None:
    """Log to `stream`, stderr if None. Replaces what was set up before."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter() if style == "json" else TextFormatter())
    handler.addFilter(Repeats())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    set_level(level)


def set_level(level: str) -> None:
    """Least level that is logged. Libraries say warnings and worse only."""
    logging.getLogger().setLevel(max(logging.WARNING, logging.getLevelName(level.upper())))
    logging.getLogger("hotset").setLevel(level.upper())
