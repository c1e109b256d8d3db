"""Cores that a process may use."""

from __future__ import annotations

from pathlib import Path

import pytest

from hotset.protos.cores import usable_cores


@pytest.mark.parametrize(
    ("limits", "cores"),
    [
        ({}, 16),
        ({"": "max 100000"}, 16),
        ({"": "250000 100000"}, 2),
        ({"a.slice/b.service": "max 100000", "a.slice": "450000 100000"}, 4),
        ({"a.slice/b.service": "10000 100000", "other": "1 1"}, 1),
        ({"a.slice": "6400000 100000"}, 16),
    ],
)
def test_limits_of_control_groups_count(
    limits: dict[str, str], cores: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _pid: set(range(16)))
    (tmp_path / "proc" / "self").mkdir(parents=True)
    (tmp_path / "proc" / "self" / "cgroup").write_text("0::/a.slice/b.service\n")
    for group, limit in limits.items():
        (tmp_path / "groups" / group).mkdir(parents=True, exist_ok=True)
        (tmp_path / "groups" / group / "cpu.max").write_text(limit + "\n")
    assert usable_cores(tmp_path / "proc", tmp_path / "groups") == cores
