"""docs/daemon.md is held to the configuration's model, to the log's events, and to the limits in the code."""

from __future__ import annotations

import re
from pathlib import Path

from hotset.daemon import http, logs, recorder, resume, server
from hotset.daemon.config import KEYS, Key
from hotset.daemon.events import EVENTS

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "daemon.md").read_text()


def default_of(key: Key) -> str:
    default = key.field.default
    if default in (None, ()):
        return "unset" if default is None else "empty"
    return f"`{str(default).lower() if isinstance(default, bool) else default}`"


def test_the_table_of_keys_is_the_configuration() -> None:
    rows = re.findall(r"^\| `([a-z_.]+)` \| ([^|]+) \| (yes|no) \| ([^|]+) \|$", PAGE, re.MULTILINE)
    assert rows == [
        (path, default_of(key), "yes" if key.option.live else "no", key.field.description) for path, key in KEYS.items()
    ]


def test_the_table_of_events_is_what_is_logged() -> None:
    section = PAGE.partition("## Log\n")[2]
    assert dict(re.findall(r"^\| `(\w+)` \| ([^|]+) \|$", section, re.MULTILINE)) == EVENTS


def test_the_limits_are_those_of_the_code() -> None:
    assert f"| {http.MOST_CONNECTIONS}, each with {http.PATIENCE_SECONDS:.0f} s of patience" in PAGE
    assert f"| the newest {resume.MOST_SESSIONS} |" in PAGE
    assert logs.SECONDS == 60
    assert f"| {logs.BURST} a minute;" in PAGE
    assert f"| {recorder.QUEUE} sequence steps;" in PAGE
    assert f"has not turned for {server.STUCK_SECONDS:.0f} s" in PAGE
