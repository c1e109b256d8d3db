"""Pages on the daemon are held to the code: their tables, and the limits that they state."""

from __future__ import annotations

from pathlib import Path

import pytest

from hotset.daemon import http, logs, recorder, resume, server
from hotset.ops.pages import tables, written
from hotset.protos import metrics

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "daemon.md").read_text()


@pytest.mark.parametrize("name", tables())
def test_tables_are_what_the_code_says(name: str) -> None:
    page = (ROOT / name).read_text()
    assert page == written(page, tables()[name]), "write it anew: python -m hotset.ops.pages"


def test_a_page_without_its_table_is_an_error() -> None:
    with pytest.raises(ValueError, match="no table"):
        written("# Nothing here", tables()["docs/daemon.md"])


def test_the_limits_are_those_of_the_code() -> None:
    assert f"| {http.MOST_CONNECTIONS}, each with {http.PATIENCE_SECONDS:.0f} s of patience" in PAGE
    assert f"| the newest {resume.MOST_SESSIONS} |" in PAGE
    assert logs.SECONDS == 60
    assert f"| {logs.BURST} a minute;" in PAGE
    assert f"| {recorder.QUEUE} sequence steps; {recorder.QUEUE_BYTES >> 20} MiB of them;" in PAGE
    assert f"has not turned for {server.STUCK_SECONDS:.0f} s" in PAGE
    borders = ", ".join(f"{border:g}" for border in metrics.PLAN_BUCKETS)
    assert f"borders are {borders} seconds" in (ROOT / "docs" / "metrics.md").read_text()
