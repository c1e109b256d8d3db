"""Flags over environment over file over default; every mistake listed by its source; what may change at run time."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from hotset.daemon.config import KEYS, DaemonConfig, with_live
from hotset.daemon.settings import OTHER_VARIABLES, as_toml, load
from hotset.protos.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("HOTSET_") and name not in OTHER_VARIABLES]:
        monkeypatch.delenv(name)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "hotset.toml"
    path.write_text('train_after = 1\nlink_gbps = 1.5\nname = "file"\n[rules]\nhorizon = 11\nrecent = 12\n')
    return path


def test_flags_win_over_variables_over_the_file_over_defaults(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOTSET_TRAIN_AFTER", "2")
    monkeypatch.setenv("HOTSET_LINK_GBPS", "2.5")
    monkeypatch.setenv("HOTSET_RULES__HORIZON", "21")
    monkeypatch.setenv("HOTSET_MODEL", "")
    config, given = load({"train_after": "3", "rules.rows": "31"}, file)
    assert (config.train_after, config.link_gbps, config.name, config.plan_every) == (3, 2.5, "file", 1)
    rules = config.rules
    assert (rules.horizon, rules.recent, rules.margin, rules.rows) == (21, 12, 1.0, 31)
    assert config.model is None
    assert given == {
        "train_after": "--train-after", "link_gbps": "HOTSET_LINK_GBPS", "name": f"{file}: name",
        "rules.horizon": "HOTSET_RULES__HORIZON", "rules.recent": f"{file}: rules.recent", "rules.rows": "--rules-rows",
    }  # fmt: skip


def test_the_file_may_be_named_by_a_variable(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOTSET_CONFIG", str(file))
    assert load().config.name == "file"


def test_every_mistake_is_a_line_that_names_its_source(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_text("trian = true\nflush_seconds = -1\n[rules]\nhorizn = 3\nmargin = nan\n[more]\nx = 1\n")
    monkeypatch.setenv("HOTSET_LINK_GBSP", "3")
    monkeypatch.setenv("HOTSET_RULES__RECENT", "few")
    monkeypatch.setenv("HOTSET_TRAIN_ARGUMENTS", "--a 'b")
    with pytest.raises(ConfigError) as caught:
        load({"train_after": "0", "pid": "3", "endpoint": "ipc://x"}, file)
    head, *lines = str(caught.value).splitlines()
    assert head == f"{len(lines)} mistakes in the configuration:"
    starts = [
        f"{file}: trian: unknown key, did you mean train?", f"{file}: rules.horizn: unknown key, did you mean",
        f"{file}: more: unknown key", f"{file}: flush_seconds: Input should be greater than 0, not -1",
        f"{file}: rules.margin: Input should be a finite number", "HOTSET_LINK_GBSP: unknown variable, did you mean",
        "HOTSET_RULES__RECENT: Input should be a valid integer", "HOTSET_TRAIN_ARGUMENTS: No closing quotation",
        "--train-after: Input should be greater than or equal to 1, not '0'",
        "pid and endpoint exclude each other",
    ]  # fmt: skip
    assert len(lines) == len(starts)
    for start in starts:
        assert sum(line.startswith(start) for line in lines) == 1, start


@pytest.mark.parametrize(("content", "says"), [(None, "cannot be read"), (b"a = ", "not TOML"), (b"\xff", "not TOML")])
def test_a_file_that_is_none_is_one_mistake(tmp_path: Path, content: bytes | None, says: str) -> None:
    path = tmp_path / "x.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=says) as caught:
        load({}, path)
    assert len(str(caught.value).splitlines()) == 1


def test_a_table_in_one_variable_is_a_mistake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOTSET_RULES", "nonsense")
    with pytest.raises(ConfigError, match="HOTSET_RULES: unknown variable, did you mean HOTSET_RULES__"):
        load()


def test_lists_are_words_in_variables_and_flags(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOTSET_TRAIN_ARGUMENTS", "--rows=3 '--name=a b'")
    assert load().config.train_arguments == ("--rows=3", "--name=a b")
    assert load({"train_arguments": ["--rows=4"]}).config.train_arguments == ("--rows=4",)


def test_what_is_printed_is_a_file_that_gives_the_same(tmp_path: Path) -> None:
    flags: dict[str, Any] = {
        "name": 'a "b" \\ ü', "train": True, "link_gbps": "1e-05", "train_arguments": ["x y", "=\n"], "rules.margin": -3
    }  # fmt: skip
    effective = load(flags)
    path = tmp_path / "printed.toml"
    path.write_text(as_toml(effective), encoding="utf-8")
    assert load({}, path).config == effective.config
    assert "train = true  # --train\n" in path.read_text()
    assert "once = false  # default\n" in path.read_text()
    assert set(tomllib.loads(path.read_text())["rules"]) == {"horizon", "recent", "margin", "rows", "flight_us", "near"}


def test_a_reload_takes_what_may_change_and_names_what_may_not() -> None:
    old = DaemonConfig(train_after=1)
    new = DaemonConfig(train_after=2, log_level="debug", metrics_port=9, rules={"rows": 7})
    mixed, changed, kept = with_live(old, new)
    assert set(changed) == {"train_after", "log_level", "rules.rows"}
    assert kept == ["metrics_port"]
    assert (mixed.train_after, mixed.log_level, mixed.rules.rows, mixed.metrics_port) == (2, "debug", 7, None)
    assert with_live(mixed, new)[1:] == ([], ["metrics_port"])


def test_every_key_has_help_and_its_own_flag() -> None:
    assert all(key.field.description for key in KEYS.values())
    assert all(key.option.group != "Other" for key in KEYS.values())
    assert len({key.flag for key in KEYS.values()}) == len(KEYS)


def test_variables_of_other_parts_are_known() -> None:
    """A variable that some other part reads must not stop a daemon."""
    found: set[str] = set()
    for package in ("protos", "kernels", "runtime", "predictor", "training", "daemon", "ops"):
        for path in (ROOT / package).rglob("*.py"):
            found |= set(re.findall(r'"(HOTSET_[A-Z_]+[A-Z])"', path.read_text()))
    assert found <= OTHER_VARIABLES | {key.variable for key in KEYS.values()}


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "hotset.ops", "daemon", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_command_prints_its_configuration_and_its_mistakes(file: Path) -> None:
    printed = run("--config", str(file), "--no-train", "--rules-rows", "9", "--print-config")
    assert printed.returncode == 0
    assert "train = false  # --train" in printed.stdout
    assert tomllib.loads(printed.stdout)["rules"]["rows"] == 9
    wrong = run("--config", str(file), "--rules-rows", "x", "--metrics-port", "70000")
    assert wrong.returncode == ConfigError.exit_code
    assert len(wrong.stderr.strip().splitlines()) == 3


def test_help_has_groups_and_every_flag() -> None:
    shown = run("--help").stdout
    for group in {key.option.group for key in KEYS.values()} | {"Options"}:
        assert f"\n{group}:\n" in shown
    for key in KEYS.values():
        assert f"  {key.flag} " in shown
