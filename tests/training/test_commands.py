"""`train`, `evaluate`, `promote` and `models` as typed by a user, on the recorded sample trace."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner, Result

from hotset.ops.commands import evaluate, models, promote, train
from hotset.protos.errors import HotsetError
from hotset.training import registry
from hotset.training.errors import RegistryError, TrainingError
from hotset.training.gate import QUICK_HEURISTICS
from hotset.training.store import Store

MakeLog = Callable[..., Path]
Run = Callable[..., Result]
SAMPLE = Path(__file__).parents[1] / "data" / "sample.parquet"


@pytest.fixture
def run(store: Store, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a command line; errors come out as raised, to be told on one line by `hotset.ops.cli`."""
    app = typer.Typer()
    for command in (train, evaluate, promote, models):
        command.register(app)
    monkeypatch.setenv("HOTSET_MLFLOW", store.uri)
    # A console of the tests' own width, so that no cell of a table is cut.
    monkeypatch.setenv("COLUMNS", "200")
    return lambda *words: CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)


def test_a_model_from_log_to_champion_and_back(run: Run, make_log: MakeLog, tmp_path: Path, name: str) -> None:
    """The whole path on a log that is easy to learn; the recorded sample is too short to promise a win."""
    log, held_out = make_log("log", sequences=8, steps=160), make_log("held-out", sequences=2, seed=9, steps=160)
    for trees in (16, 8):
        done = run("train", log, "--out", tmp_path / "out", "--name", name, "--trees", trees, "--threads", 1, "--json")
        assert done.exit_code == 0
        assert json.loads(done.stdout)["model"] == str(tmp_path / "out" / "model")
    first = run("promote", f"models:/{name}/1", "--traces", held_out, "--ratio", 1.5, "--json")
    told = json.loads(first.stdout)
    assert first.exit_code == (0 if told["promoted"] else promote.REFUSED)
    contenders = [figures["contender"] for figures in told["gate"]["figures"]]
    assert contenders[0] == "challenger"
    assert {"lru", "lirs", "s3fifo", "score-ema"} <= set(contenders)
    listed = [json.loads(line) for line in run("models", "--name", name, "--json").stdout.splitlines()]
    assert [(v["version"], "challenger" in v["aliases"]) for v in listed] == [(2, True), (1, False)]
    assert listed[1]["gate"]["gate"] == ("passed" if told["promoted"] else "refused")


def test_rollback_is_told(run: Run, make_log: MakeLog, tmp_path: Path, name: str, store: Store) -> None:
    log = make_log(sequences=2, steps=30)
    for _ in range(2):
        run("train", log, "--out", tmp_path / "out", "--name", name, "--trees", 2, "--threads", 1)
    for version in reversed(registry.list_versions(name, store=store.uri)):
        registry.set_champion(version, store=store.uri)
    assert "models:/" in run("promote", "--rollback", "--name", name).stdout
    table = run("models", "--name", name).stdout
    assert table.index("champion") > table.index("challenger")
    with pytest.raises(RegistryError, match="nothing to roll back to"):
        run("promote", "--rollback", "--name", name)


def test_evaluate_tells_errors_and_replay(run: Run, tmp_path: Path, name: str) -> None:
    done = run("train", SAMPLE, "--out", tmp_path / "out", "--name", name, "--trees", 4, "--threads", 1)
    assert done.exit_code == 0
    assert "(challenger)" in done.stdout
    told = json.loads(run("evaluate", f"models:/{name}@challenger", SAMPLE, "--json").stdout)
    assert 0.5 < told["metrics"]["auc_within_4"] <= 1.0
    figures = {each["contender"]: each for each in told["figures"]}
    assert list(figures) == ["model", *QUICK_HEURISTICS, "belady"]
    assert figures["belady"]["demand_misses"] <= figures["model"]["demand_misses"]
    inside = {each["contender"]: each for each in told["on_device"]}
    assert list(inside) == ["model", *QUICK_HEURISTICS]
    assert inside["model"]["moved_bytes"] <= min(inside[name]["moved_bytes"] for name in QUICK_HEURISTICS)
    table = run("evaluate", tmp_path / "out" / "model", SAMPLE).stdout
    assert "belady" in table
    assert str(figures["lru"]["demand_misses"]) in table


@pytest.mark.parametrize(
    ("words", "error", "complaint"),
    [
        (("promote", "models:/none/1", "--traces", SAMPLE), RegistryError, "no model 'none'"),
        (("promote",), TrainingError, "needs held-out traces"),
        (("promote", "--rollback", "--name", "none"), RegistryError, "nothing to roll back to"),
        (("evaluate", "models:/none@champion", SAMPLE), RegistryError, "no model 'none'"),
        (("evaluate", "/no/such/folder", SAMPLE), RegistryError, "no model folder"),
        (("train", SAMPLE, "--engine", "spark"), TrainingError, "unknown engine"),
        (("train", "/no/such/log"), HotsetError, "no such file"),
    ],
)
def test_a_users_mistake_is_one_clear_line(
    run: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: tuple[object, ...],
    error: type[HotsetError],
    complaint: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=complaint) as caught:
        run(*words)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("command", ["train", "evaluate", "promote", "models"])
def test_help_shows_an_example(run: Run, command: str) -> None:
    shown = run(command, "--help")
    assert shown.exit_code == 0
    assert f"Example: hotset {command}" in shown.stdout


def test_no_models_is_no_error(run: Run) -> None:
    assert "no model 'absent' is registered" in run("models", "--name", "absent").stdout
