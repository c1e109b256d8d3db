"""Key folders: file modes, the allow-list, and what is refused."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from hotset.protos.errors import ProtocolError
from hotset.protos.transport.keys import client_keys, make_keys, server_keys


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "keys"
    for name in ("server", "client"):
        make_keys(made, name)
    return made


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_secrets_are_private_and_both_sides_fit(folder: Path) -> None:
    assert mode(folder) == 0o700
    assert {path.name: mode(path) for path in folder.iterdir()} == {
        "server.key": 0o644, "server.key_secret": 0o600, "client.key": 0o644, "client.key_secret": 0o600,
    }  # fmt: skip
    server, client = server_keys(folder), client_keys(folder)
    assert client.trusted == {server.public}
    assert server.trusted == {client.public}


def test_every_other_public_key_is_on_the_allow_list(folder: Path) -> None:
    make_keys(folder, "alice")
    assert len(server_keys(folder).trusted) == 2
    (folder / "client.key").unlink()
    assert len(server_keys(folder).trusted) == 1
    (folder / "alice.key").unlink()
    with pytest.raises(ProtocolError, match="no public key that may connect"):
        server_keys(folder)


def test_keys_are_never_overwritten(folder: Path) -> None:
    before = (folder / "server.key_secret").read_bytes()
    with pytest.raises(ProtocolError, match=r"server\.key exists"):
        make_keys(folder, "server")
    assert (folder / "server.key_secret").read_bytes() == before


def test_secrets_that_others_may_read_and_lists_they_may_extend_are_refused(folder: Path) -> None:
    (folder / "server.key_secret").chmod(0o640)
    with pytest.raises(ProtocolError, match="others may read"):
        server_keys(folder)
    (folder / "server.key_secret").chmod(0o600)
    folder.chmod(0o770)
    with pytest.raises(ProtocolError, match="others may add keys"):
        server_keys(folder)
    (folder / "client.key_secret").chmod(0o604)
    with pytest.raises(ProtocolError, match="others may read"):
        client_keys(folder)


def test_a_folder_without_keys_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(ProtocolError, match=r"no key at .*client\.key_secret.*hotset keys"):
        client_keys(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(ProtocolError, match="cannot write keys"):
        make_keys(tmp_path / "file", "server")
