"""How daemons find decode processes on this machine: one small file each in the runtime folder.

The runtime writes `<runtime dir>/<pid>.json` once it listens and removes it when it ends. A process that was
killed leaves its file behind; whoever looks next sees that the process is gone (or that another one has its
number now: the start times differ) and removes the file and its socket. The number of a process in another
container may mean anything here: of such a one only its socket tells whether it still listens.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from hotset.protos.errors import ProtocolError
from hotset.protos.messages import PROTOCOL_VERSION, Geometry
from hotset.protos.parts import Name, Pid

RUNTIME_DIR_VARIABLE = "HOTSET_RUNTIME_DIR"
MAX_FILE_BYTES = 1 << 16
_FILE_NAME = re.compile(r"\d+(-\d+)?\.json")


class RuntimeFile(BaseModel):
    """What a decode process publishes about itself. Unknown keys are ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    endpoint: str = Field(max_length=1024)
    protocol: int = PROTOCOL_VERSION
    session: Name
    pid: Pid
    start_time: Name = Field(description="tells this process from a later one of the same pid; opaque")
    pid_namespace: Name = Field(default="", description="where `pid` counts, as the kernel names it; empty: here")
    started: float = Field(ge=0, description="seconds since 1970, for people")
    model: Name
    geometry: Geometry

    @property
    def foreign(self) -> bool:
        """Whether its process has a number of another pid namespace, so that /proc tells us nothing of it."""
        return self.pid_namespace not in ("", pid_namespace())

    @property
    def alive(self) -> bool:
        """Whether the very process that wrote this still runs; for a foreign one, whether anybody listens there."""
        if self.foreign:
            return _listens(self.endpoint)
        return process_start_time(self.pid) == self.start_time


def runtime_dir() -> Path:
    """The folder of this user's sockets and discovery files, made if need be with mode 0700.

    `$HOTSET_RUNTIME_DIR`, else `$XDG_RUNTIME_DIR/hotset`, else `/tmp/hotset-<uid>`.
    Raises ProtocolError if it belongs to somebody else or others may enter it.
    """
    if chosen := os.environ.get(RUNTIME_DIR_VARIABLE):
        folder = Path(chosen).absolute()
    elif base := os.environ.get("XDG_RUNTIME_DIR"):
        folder = Path(base) / "hotset"
    else:
        folder = Path("/tmp") / f"hotset-{os.getuid()}"
    return private_dir(folder)


def private_dir(folder: Path) -> Path:
    """Make `folder` with mode 0700, or raise ProtocolError if what is there is not private to this user."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = folder.lstat()
    except OSError as error:
        raise ProtocolError(f"cannot use {folder} as runtime folder: {error.strerror}") from None
    if not stat.S_ISDIR(status.st_mode):
        raise ProtocolError(f"{folder} is not a folder; set {RUNTIME_DIR_VARIABLE} to one that is")
    if status.st_uid != os.getuid():
        raise ProtocolError(f"{folder} belongs to user {status.st_uid}, and you are {os.getuid()}: run as that user, "
                            f"or set {RUNTIME_DIR_VARIABLE} to a folder of yours")  # fmt: skip
    if status.st_mode & 0o077:
        raise ProtocolError(f"other users may enter {folder}: chmod 700 it, or set {RUNTIME_DIR_VARIABLE} to another")
    return folder


def process_start_time(pid: int) -> str | None:
    """When a process started, as an opaque string; None if there is no such process (or only its zombie)."""
    if sys.platform == "linux":
        return _start_time_linux(pid)
    listed = subprocess.run(["ps", "-o", "stat=,lstart=", "-p", str(pid)], capture_output=True, text=True, check=False)
    state, _, started = listed.stdout.strip().partition(" ")
    return started.strip() or None if not state.startswith("Z") else None


def _start_time_linux(pid: int) -> str | None:
    # Ticks since boot, so that a jump of the clock changes nothing (proc_pid_stat(5), fields 3 and 22).
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()
    return None if fields[0] in "ZXx" else fields[19]


def pid_namespace() -> str:
    """Where process numbers are those that we see; empty where the system has no such thing."""
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def process_numbers(pid: int) -> tuple[int, ...]:
    """The numbers of a process: here, and in each pid namespace below that it is in; as a container's has two.

    Empty if there is no such process. Source: proc_pid_status(5), NSpid.
    """
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ()
    return next((tuple(map(int, line.split()[1:])) for line in lines if line.startswith("NSpid:")), (pid,))


def _listens(endpoint: str) -> bool:
    # What we cannot ask without saying more (tcp), or what is merely busy, counts as there.
    if not endpoint.startswith("ipc://"):
        return True
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as caller:
        caller.setblocking(False)
        try:
            caller.connect(endpoint.removeprefix("ipc://"))
        except (FileNotFoundError, ConnectionRefusedError):
            return False
        except OSError:
            return True
    return True


def file_name(folder: Path) -> Path:
    """A free discovery file for this process: `<pid>.json`, or `<pid>-2.json` for its second runtime."""
    pid = os.getpid()
    path, count = folder / f"{pid}.json", 1
    while (there := read_file(path)) is not None and there.alive:
        count += 1
        path = folder / f"{pid}-{count}.json"
    return path


def write_file(path: Path, entry: RuntimeFile) -> None:
    """Write a discovery file so that a reader sees it whole or not at all."""
    write_atomically(path, entry.model_dump_json(indent=1))


def write_atomically(path: Path, text: str) -> None:
    """Replace a small text file so that a reader sees the old or the new one, never a part."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=".tmp")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def read_file(path: Path) -> RuntimeFile | None:
    """The content of a discovery file; None if it is gone, foreign or damaged."""
    try:
        with path.open("rb") as file:
            entry = RuntimeFile.model_validate_json(file.read(MAX_FILE_BYTES))
    except (OSError, ValidationError):
        return None
    # Its process may see the folder elsewhere, as a container does; the socket lies beside the file all the same.
    beside = path.with_suffix(".sock")
    moved = entry.endpoint.startswith("ipc://") and Path(entry.endpoint).name == beside.name and beside.exists()
    return entry.model_copy(update={"endpoint": f"ipc://{beside}"}) if moved else entry


def find_runtimes(folder: Path) -> list[RuntimeFile]:
    """The decode processes that run now, oldest first. Files of dead ones are removed with their sockets.

    Their endpoints are as seen from here.
    """
    found: list[RuntimeFile] = []
    for path in sorted(folder.glob("*.json")):
        if not _FILE_NAME.fullmatch(path.name):
            continue
        entry = read_file(path)
        if entry is not None and entry.alive:
            found.append(entry)
        elif entry is not None or not _in_use(path):
            _forget(path)
    return sorted(found, key=lambda entry: entry.started)


def _in_use(path: Path) -> bool:
    # A file that we cannot read stays while its process runs, or somebody of another container listens beside it:
    # a newer version may have written it.
    pid = int(path.stem.partition("-")[0])
    return process_start_time(pid) is not None or _listens(f"ipc://{path.with_suffix('.sock')}")


def _forget(path: Path) -> None:
    # Only names that are ours, in our private folder: never a path that the file itself states.
    for leftover in (path, path.with_suffix(".sock")):
        with contextlib.suppress(OSError):
            leftover.unlink()
