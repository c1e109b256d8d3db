"""What survives a restart: `daemon.json` in the log folder says which model served whom, and what its guard found.

    session of the file    takes up its model, the guard's verdict, its trainings and how far they are apart, and begins
                           with what was advised
    other of its kind      takes up the model that served the newest such session, unless the guard was against it
    anybody else           starts as with no file

A kind is a decode model and the shape of its pages. The file is replaced atomically, has a version and a check sum, and
is ignored, with a warning, if anything about it is wrong. It holds no model: those are files of their own, loaded only
if their SHA-256 is the one noted.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from hotset.daemon.events import say
from hotset.daemon.scorers import LearnedScorer
from hotset.protos.discovery import write_atomically
from hotset.protos.errors import ModelError
from hotset.protos.messages import Hello
from hotset.protos.parts import Count, Name

FILE_NAME = "daemon.json"
VERSION = 1
MOST_SESSIONS = 64
MOST_BYTES = 1 << 20
MOST_WITHDRAWN = 8
"""models that are remembered for having done worse than none, the last ones"""
SAVE_SECONDS = 10.0


class InService(BaseModel):
    """A model that planned, and what the guard last counted."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    folder: Path
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    guard_ok: bool = True
    learned_misses: Count = 0
    heuristic_misses: Count = 0


class Memory(BaseModel):
    """Of one session."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    session: Name
    kind: tuple[str, int, int, int, int, int]
    configured: str = ""
    """SHA-256 of the model that the configuration named; another one there now wins over what is remembered."""
    in_service: InService | None = None
    trainings: Count = 0
    """That ended."""
    since_training: Count = 0
    """Sequence steps logged since the last of them."""
    withdrawn: dict[str, str] = Field(default={}, max_length=MOST_WITHDRAWN)
    """Why, by SHA-256 of heads for the device that did worse than none."""
    advised_concurrency: int | None = None
    advised_slots: int | None = None
    updated: float = 0.0


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid")

    version: Literal[1]
    sha256: str
    sessions: list[Memory] = Field(max_length=MOST_SESSIONS)


def kind_of(hello: Hello) -> tuple[str, int, int, int, int, int]:
    """Sessions of one kind can use each other's models."""
    shape = hello.geometry
    return hello.model, shape.layers, shape.kv_heads, shape.page_size, shape.selected, shape.candidates


class StateFile:
    """`recall` may be called from any thread, the rest from the serving thread."""

    def __init__(self, log_dir: Path, configured: str = "") -> None:
        """`configured`: SHA-256 of the model that the configuration names, empty if none."""
        self.path = log_dir.absolute() / FILE_NAME
        self._configured = configured
        self._sessions: dict[str, Memory] = {memory.session: memory for memory in _read(self.path)}
        self._saved = ""
        self._due = 0.0

    def recall(self, hello: Hello) -> tuple[Memory, LearnedScorer | None] | None:
        """What is known of this session, or of the newest of its kind; with its model, loaded and checked."""
        memory = self._sessions.get(hello.session) or self._newest(kind_of(hello))
        if memory is None or memory.configured != self._configured:
            return None
        model = memory.in_service
        if model is None:
            return memory, None
        try:
            scorer = LearnedScorer.load(model.folder, sha256=model.sha256)
        except ModelError as error:
            say(logging.WARNING, "model_refused", session=hello.session[:8], reason=str(error))
            # Without its model a session has to train anew.
            return memory.model_copy(update={"in_service": None, "trainings": 0, "since_training": 0}), None
        return memory, scorer

    def _newest(self, kind: tuple[str, int, int, int, int, int]) -> Memory | None:
        fit = [m for m in list(self._sessions.values()) if m.kind == kind and m.in_service and m.in_service.guard_ok]
        if not fit:
            return None
        newest = max(fit, key=lambda memory: memory.updated)
        return Memory(session="", kind=kind, configured=newest.configured, in_service=newest.in_service)

    def keep(self, memories: list[Memory]) -> None:
        """Note how the sessions are; saved at once if a model, verdict or training changed, else now and then."""
        now = time.time()
        for memory in memories:
            self._sessions[memory.session] = memory.model_copy(update={"configured": self._configured, "updated": now})
        stay = sorted(self._sessions.values(), key=lambda memory: memory.updated)[-MOST_SESSIONS:]
        self._sessions = {memory.session: memory for memory in stay}
        weighty = json.dumps([m.model_dump(mode="json", exclude={"since_training", "updated"}) for m in stay])
        if memories and (weighty != self._saved or time.monotonic() >= self._due):
            self._saved, self._due = weighty, time.monotonic() + SAVE_SECONDS
            self._write(stay)

    def _write(self, memories: list[Memory]) -> None:
        sessions = [memory.model_dump(mode="json") for memory in memories]
        text = json.dumps({"version": VERSION, "sha256": _digest(sessions), "sessions": sessions}, indent=1)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(self.path, text)
        except OSError as error:
            say(logging.WARNING, "state_failed", path=str(self.path), reason=str(error))


def _digest(sessions: Any) -> str:
    return hashlib.sha256(json.dumps(sessions, sort_keys=True).encode()).hexdigest()


def _read(path: Path) -> list[Memory]:
    try:
        with path.open("rb") as file:
            text = file.read(MOST_BYTES)
        tree = json.loads(text)
        read = _File.model_validate(tree)
        if _digest(tree["sessions"]) != read.sha256:
            raise ValueError("its check sum is another")
    except FileNotFoundError:
        return []
    except (OSError, ValueError, RecursionError, ValidationError) as error:
        say(logging.WARNING, "state_ignored", path=str(path), reason=str(error).splitlines()[0])
        return []
    return read.sessions
