"""Discovery files: private, atomic, and forgotten with their process."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from hotset.protos import discovery
from hotset.protos.errors import ProtocolError
from hotset.protos.messages import Geometry

GEOMETRY = Geometry(layers=2, kv_heads=1, page_size=16, selected=2, candidates=4, page_bytes=64, slots=8, groups=8)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return discovery.private_dir(tmp_path / "run")


def entry_for(pid: int, start_time: str | None = None, started: float = 1.0) -> discovery.RuntimeFile:
    return discovery.RuntimeFile(
        endpoint=f"ipc:///nowhere/{pid}.sock",
        session=f"s{pid}",
        pid=pid,
        start_time=start_time or discovery.process_start_time(pid) or "",
        started=started,
        model="m",
        geometry=GEOMETRY,
    )


def test_a_written_file_is_found(folder: Path) -> None:
    entry = entry_for(os.getpid())
    discovery.write_file(folder / f"{os.getpid()}.json", entry)
    assert discovery.find_runtimes(folder) == [entry]
    assert [path.name for path in folder.iterdir()] == [f"{os.getpid()}.json"]


def test_files_of_a_dead_process_are_removed(folder: Path) -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    discovery.write_file(folder / f"{child.pid}.json", entry_for(child.pid))
    (folder / f"{child.pid}.sock").touch()
    assert len(discovery.find_runtimes(folder)) == 1
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    # Not reaped yet: a zombie counts as dead.
    assert discovery.find_runtimes(folder) == []
    assert list(folder.iterdir()) == []
    child.communicate()


def test_a_process_of_another_pid_namespace_is_there_while_it_listens(folder: Path) -> None:
    path = folder / "1.json"
    elsewhere = {"pid_namespace": "pid:[1]", "start_time": "7", "endpoint": "ipc:///other/mount/1.sock"}
    discovery.write_file(path, entry_for(1).model_copy(update=elsewhere))
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder / "1.sock"))
        listener.listen()
        (found,) = discovery.find_runtimes(folder)
        assert found.foreign
        # Where we see it, which need not be where it sees itself.
        assert found.endpoint == f"ipc://{folder}/1.sock"
    assert discovery.find_runtimes(folder) == []
    assert list(folder.iterdir()) == []


def test_a_file_of_a_newer_version_in_another_container_stays_while_somebody_listens(folder: Path) -> None:
    path = folder / "4194304.json"
    path.write_text("{}")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path.with_suffix(".sock")))
        listener.listen()
        assert discovery.find_runtimes(folder) == []
        assert path.exists()
    assert discovery.find_runtimes(folder) == []
    assert not path.exists()


def test_a_process_has_its_number_here_first() -> None:
    assert discovery.process_numbers(os.getpid())[0] == os.getpid()
    assert discovery.process_numbers(4194304) == ()


def test_another_container_with_our_number_keeps_its_file(folder: Path) -> None:
    path = discovery.file_name(folder)
    elsewhere = {"pid_namespace": "pid:[1]", "endpoint": f"ipc://{path.with_suffix('.sock')}"}
    discovery.write_file(path, entry_for(os.getpid()).model_copy(update=elsewhere))
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path.with_suffix(".sock")))
        listener.listen()
        assert discovery.file_name(folder).name == f"{os.getpid()}-2.json"
    assert discovery.file_name(folder) == path


def test_a_reused_pid_is_another_process(folder: Path) -> None:
    discovery.write_file(folder / f"{os.getpid()}.json", entry_for(os.getpid(), start_time="1"))
    assert discovery.find_runtimes(folder) == []
    assert list(folder.iterdir()) == []


def test_damaged_files_of_living_processes_stay_and_of_dead_ones_go(folder: Path) -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    mine, dead = folder / f"{os.getpid()}.json", folder / f"{child.pid}.json"
    for path in (mine, dead):
        path.write_text("{")
    assert discovery.find_runtimes(folder) == []
    assert mine.exists()
    assert not dead.exists()


def test_foreign_files_are_left_alone(folder: Path) -> None:
    for name in ("notes.json", "1.txt", "keys"):
        (folder / name).write_text("{}")
    assert discovery.find_runtimes(folder) == []
    assert len(list(folder.iterdir())) == 3


def test_oldest_first(folder: Path) -> None:
    parent = entry_for(os.getppid(), started=5.0)
    me = entry_for(os.getpid(), started=9.0)
    for entry in (me, parent):
        discovery.write_file(folder / f"{entry.pid}.json", entry)
    assert [found.pid for found in discovery.find_runtimes(folder)] == [parent.pid, me.pid]


def test_a_second_runtime_of_a_process_gets_its_own_file(folder: Path) -> None:
    first = discovery.file_name(folder)
    discovery.write_file(first, entry_for(os.getpid()))
    second = discovery.file_name(folder)
    assert (first.name, second.name) == (f"{os.getpid()}.json", f"{os.getpid()}-2.json")


def test_a_stale_file_of_our_pid_is_replaced(folder: Path) -> None:
    path = folder / f"{os.getpid()}.json"
    discovery.write_file(path, entry_for(os.getpid(), start_time="1"))
    assert discovery.file_name(folder) == path


def test_runtime_dir_follows_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.delenv("HOTSET_RUNTIME_DIR", raising=False)
    assert discovery.runtime_dir() == tmp_path / "hotset"
    monkeypatch.setenv("HOTSET_RUNTIME_DIR", str(tmp_path / "mine"))
    assert discovery.runtime_dir() == tmp_path / "mine"
    assert (tmp_path / "mine").stat().st_mode & 0o777 == 0o700
    monkeypatch.delenv("HOTSET_RUNTIME_DIR")
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    assert discovery.runtime_dir() == Path(f"/tmp/hotset-{os.getuid()}")


def test_a_folder_that_others_may_enter_is_refused(tmp_path: Path) -> None:
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o750)
    with pytest.raises(ProtocolError, match="chmod 700"):
        discovery.private_dir(tmp_path / "open")


def test_a_link_or_file_is_no_runtime_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path)
    with pytest.raises(ProtocolError, match="cannot use"):
        discovery.private_dir(tmp_path / "file")
    with pytest.raises(ProtocolError, match="is not a folder"):
        discovery.private_dir(tmp_path / "link")


def test_somebody_elses_folder_is_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = discovery.private_dir(tmp_path / "mine")
    me = os.getuid()
    monkeypatch.setattr(os, "getuid", lambda: me + 1)
    with pytest.raises(ProtocolError, match=f"belongs to user {me}, and you are {me + 1}"):
        discovery.private_dir(folder)


def test_a_failed_write_leaves_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_from: object, _to: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="No space"):
        discovery.write_atomically(folder / "x", "text")
    assert list(folder.iterdir()) == []
