"""`hotset simulate` as a user types it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner, Result

from hotset.ops.commands import simulate
from hotset.protos.errors import HotsetError


def _hotset(*words: object) -> Result:
    app = typer.Typer()
    simulate.register(app)
    return CliRunner().invoke(app, [str(word) for word in words], env={"COLUMNS": "120"})


def _objects(result: Result) -> list[dict[str, object]]:
    assert result.exit_code == 0, result.output
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_every_combination_is_one_line(sample_path: Path) -> None:
    options = ("--tokens", 5, "--sequences", 4, "--link-gbps", "1,2", "--sweep", "concurrency=1,2", "--json")
    found = _objects(_hotset(sample_path, *options))
    assert [(r["link_gbps"], r["concurrency"]) for r in found] == [(1, 1), (1, 2), (2, 1), (2, 2)]
    assert {r["tokens"] for r in found} == {20}
    assert {"tokens_per_second", "stall_share", "step_ms", "token_ms", "moved_bytes", "asked"} <= found[0].keys()
    assert float(str(found[3]["tokens_per_second"])) > float(str(found[0]["tokens_per_second"]))


def test_table_plot_and_what_has_no_room(sample_path: Path, tmp_path: Path) -> None:
    options = ("--tokens", 5, "--sequences", 4, "--sweep", "slots=300,600,6000", "--concurrency", 4)
    result = _hotset(sample_path, *options, "--plot", tmp_path / "p.html")
    assert result.exit_code == 0, result.output
    assert "tok/s" in result.stdout
    page = (tmp_path / "p.html").read_text(encoding="utf-8")
    assert page.count("<tr>") >= 3
    assert "<svg" in page


def test_policies_run_beside_each_other(sample_path: Path) -> None:
    options = ("--tokens", 8, "--sequences", 2, "--policy", "builtin,heuristic", "--json", "--jobs", 1)
    builtin, heuristic = _objects(_hotset(sample_path, *options))
    assert (builtin["plans_applied"], builtin["policy"]) == (0, "builtin")
    assert int(str(heuristic["plans_applied"])) > 3


@pytest.mark.parametrize(
    ("options", "what"),
    [
        (("--policy", "clock"), "unknown policy 'clock'"),
        (("--arrivals", "never"), "unknown arrivals"),
        (("--sweep", "colour=1"), "give NAME=VALUE"),
        (("--sweep", "ratio"), "give NAME=VALUE"),
        (("--ratio", "two"), "give a number"),
        (("--link-gbps", "0"), "link_gbps"),
        (("--tokens", "1000"), "was recorded for 80 steps"),
        (("--slots", "10"), "are the least"),
        (("--plot", "x.png"), "nothing to plot over"),
        (("--plot", "x.gif", "--sweep", "ratio=1,2"), "a plot is"),
        (("--sequences", "0"), "at least one"),
        (("--shared-prefix", "2"), "between 0 and 1"),
    ],
)
def test_mistakes_are_named(options: tuple[str, ...], what: str, sample_path: Path) -> None:
    result = _hotset(sample_path, *options)
    assert isinstance(result.exception, HotsetError), result.output
    assert what in str(result.exception)


def test_help_tells_the_options() -> None:
    text = _hotset("--help").stdout
    for word in ("--sweep", "--link-gbps", "--controller", "Example:", "poisson"):
        assert word in text
