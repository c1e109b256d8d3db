"""Decode process and daemon in containers: process numbers of their own, and the runtime folder mounted elsewhere."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from sandbox import HOTSET, WAIT, Hotset, planned, until

from hotset.protos import discovery

CONTAINED = ("unshare", "--pid", "--fork", "--mount-proc", "--kill-child")
ELSEWHERE = """mkdir -m 700 "$1"
mount --bind "$HOTSET_RUNTIME_DIR" "$1"
export HOTSET_RUNTIME_DIR="$1"
shift
exec "$@"
"""


def allowed() -> bool:
    try:
        return subprocess.run([*CONTAINED, "true"], capture_output=True, check=False, timeout=WAIT).returncode == 0
    except FileNotFoundError:
        return False


pytestmark = [pytest.mark.e2e, pytest.mark.skipif(not allowed(), reason="needs the right to make pid namespaces")]


@pytest.mark.parametrize("contained", ["engine", "daemon", "both"])
def test_a_process_of_another_container_is_steered_until_it_is_gone(
    hotset: Hotset, trace: Path, contained: str
) -> None:
    command = HOTSET if contained == "daemon" else (*CONTAINED, *HOTSET)
    engine = hotset.start("play", trace, "--speed", 50, "--times", 50, command=command)
    number = engine.pid if contained == "daemon" else 1
    until((hotset.runtime / f"{number}.json").exists)
    elsewhere = (*CONTAINED, "sh", "-ec", ELSEWHERE, "sh", str(hotset.folder / "mount"), *HOTSET)
    daemon = hotset.daemon(command=HOTSET if contained == "engine" else elsewhere)
    until(lambda: hotset.statuses() and planned(hotset.statuses()[0]) > 5)
    # Whoever looks from elsewhere leaves the files in peace. Between two plays of the trace there is no sequence.
    until(lambda: [row["sequences"] for row in hotset.ps()] == [2])
    (row,) = hotset.ps()
    assert (row["pid"], row["model"]) == (number, "tiny")
    told = int(row["controller"].removeprefix("hotset-daemon "))
    if contained == "daemon":
        # It calls itself 1; the decode process tells us who that is out here.
        assert discovery.process_numbers(told)[-1] == 1
        assert told != daemon.pid
    engine.kill()
    until(lambda: hotset.statuses()[0]["role"] == "ended")
    assert hotset.statuses()[0]["reason"] == "the decode process is gone"
    assert hotset.ps() == []
    assert list(hotset.runtime.iterdir()) == []
