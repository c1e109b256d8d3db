"""The daemon's log: one event a line, in text and JSON, repeats held back; and the bell and systemd's socket."""

from __future__ import annotations

import ast
import io
import json
import logging
import re
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from hotset.daemon.bell import Bell
from hotset.daemon.events import EVENTS, logger, say
from hotset.daemon.logs import Repeats, set_level, set_up
from hotset.daemon.notify import Notifier

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    root, ours = logging.getLogger(), logging.getLogger("hotset")
    handlers, levels = root.handlers[:], (root.level, ours.level)
    yield
    root.handlers[:] = handlers
    root.setLevel(levels[0])
    ours.setLevel(levels[1])


def test_text_is_one_line_whatever_a_peer_says() -> None:
    out = io.StringIO()
    set_up("text", "info", out)
    say(logging.INFO, "attach_failed", endpoint="ipc:///tmp/x.sock", reason="line\nlevel=error event=forged", session=3)
    assert re.fullmatch(
        r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z level=info event=attach_failed endpoint=ipc:///tmp/x.sock "
        r"reason='line\\nlevel=error event=forged' session=3\n",
        out.getvalue(),
    )


def test_json_is_an_object_a_line_with_the_fields_as_they_are() -> None:
    out = io.StringIO()
    set_up("json", "info", out)
    say(logging.WARNING, "config_kept", keys=["a", "b"], path=Path("/x"))
    logging.getLogger("other").warning("say %s", "this")
    try:
        raise ValueError("broken")
    except ValueError as error:
        say(logging.ERROR, "session_failed", failure=error)
    kept, message, failed = map(json.loads, out.getvalue().splitlines())
    assert (kept["level"], kept["event"], kept["keys"], kept["path"]) == ("warning", "config_kept", ["a", "b"], "/x")
    assert (message["event"], message["text"], message["logger"]) == ("message", "say this", "other")
    assert "ValueError: broken" in failed["traceback"]


def test_the_level_holds_for_us_and_libraries_never_chatter() -> None:
    out = io.StringIO()
    set_up("text", "error", out)
    say(logging.INFO, "attach")
    set_level("debug")
    say(logging.DEBUG, "standby")
    logging.getLogger("other").info("chatter")
    assert [line.split("event=")[1] for line in out.getvalue().splitlines()] == ["standby"]


def test_repeats_are_held_back_and_counted() -> None:
    now = [0.0]
    repeats = Repeats(burst=2, seconds=10, clock=lambda: now[0])

    def passes(session: str) -> logging.LogRecord | None:
        extra = {"event": "standby", "fields": {"session": session}}
        record = logger.makeRecord("x", logging.INFO, "f", 1, "m", (), None, extra=extra)
        return record if repeats.filter(record) else None

    assert [passes("a") is not None for _ in range(5)] == [True, True, False, False, False]
    assert passes("b") is not None
    now[0] = 10.0
    again = passes("a")
    assert again is not None
    assert again.repeated == 3  # type: ignore[attr-defined]
    assert not hasattr(passes("a"), "repeated")
    for number in range(5000):
        passes(str(number))
    assert len(repeats._seen) <= 1024


def events_said() -> Iterator[tuple[str, str]]:
    """(file, event) of every literal event in the daemon's source, phases among them."""
    for path in (ROOT / "daemon").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call):
                continue
            name = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
            place = {"say": 1, "phase": 0}.get(name)
            if place is None or len(node.args) <= place:
                continue
            texts = [n.value for n in ast.walk(node.args[place]) if isinstance(n, ast.Constant)]
            yield from ((path.name, text) for text in texts if isinstance(text, str))


def test_every_event_is_listed_and_every_listed_one_is_said() -> None:
    said = {event for _, event in events_said()}
    assert said <= EVENTS.keys()
    # Who plans is said by the scorer's name, and messages are those of others.
    assert EVENTS.keys() - said <= {"heuristic", "learned", "message"}


def test_a_bell_wakes_from_a_signal_handler() -> None:
    bell = Bell()
    before = signal.signal(signal.SIGUSR1, lambda *_: bell.ring())
    try:
        main = threading.main_thread().ident
        assert main is not None
        # As the kernel does: a process's signal goes to its main thread if that takes it.
        threading.Timer(0.05, signal.pthread_kill, [main, signal.SIGUSR1]).start()
        bell.wait(60)
        for _ in range(100_000):
            bell.ring()
        bell.wait(60)
    finally:
        signal.signal(signal.SIGUSR1, before)
        bell.close()
    bell.ring()


def test_systemd_is_told(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "notify"))
        listener.settimeout(10)
        notifier = Notifier({"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "60000000"})
        notifier.ready()
        for _ in range(3):
            notifier.alive()
        notifier.reloading()
        notifier.stopping()
        texts = [listener.recv(4096).decode() for _ in range(4)]
    assert [text.split("=")[0] for text in texts] == ["READY", "WATCHDOG", "RELOADING", "STOPPING"]
    assert re.fullmatch(r"RELOADING=1\nMONOTONIC_USEC=\d+", texts[2])


def test_nobody_is_told_without_systemd_and_a_dead_one_is_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    Notifier({}).ready()
    assert not caplog.text
    Notifier({"NOTIFY_SOCKET": str(tmp_path / "none")}).ready()
    assert "event=notify_failed" in caplog.text
