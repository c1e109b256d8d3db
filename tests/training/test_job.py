"""The job that a daemon starts: its result, and what a kill at any moment leaves."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from hotset.predictor.model import PUSHED_FILE, ReuseModel
from hotset.protos.forest import sha256
from hotset.training import registry
from hotset.training.job import Termination, main
from hotset.training.store import Store

MakeLog = Callable[..., Path]
SAMPLE = Path(__file__).parents[1] / "data" / "sample.parquet"


def arguments(log: Path, out: Path, store: Store, name: str) -> list[str]:
    told = {"--log": log, "--out": out, "--name": name, "--experiment": name, "--tracking-uri": store.uri}
    return [str(word) for pair in told.items() for word in pair] + ["--trees", "8", "--rows", "20000"]


def test_the_result_says_what_was_made_and_why_it_serves(
    make_log: MakeLog, tmp_path: Path, store: Store, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main(arguments(make_log(sequences=3, steps=100), out, store, name)) == 0
    result = json.loads((out / "result.json").read_text())
    assert ReuseModel.load(Path(result["model"])).card.version == result["model_version"]
    assert result["version"] == "1"
    assert result["split"].startswith("by time: the last 20% of the steps of each of 3 sequences")
    assert [f["contender"] for f in result["gate"]["figures"]] == ["challenger", "lru", "score-ema", "margin-ema"]
    assert set(result["mlflow_run"]) == {"experiment", "run_id", "run_name", "tracking_uri"}
    serving = registry.champion(name, store=store.uri)
    assert (serving is not None) is result["promoted"] is result["gate"]["passed"]
    assert result["reason"] in capsys.readouterr().out


def test_heads_for_the_device_are_judged_on_a_short_log_of_a_decode(tmp_path: Path, store: Store, name: str) -> None:
    out = tmp_path / "out"
    assert main(arguments(SAMPLE, out, store, name)) == 0
    result = json.loads((out / "result.json").read_text())
    model, *others = result["gate"]["on_device"]
    assert [f["contender"] for f in (model, *others)] == ["challenger", "lru", "score-ema", "margin-ema"]
    # Prefetching within the bytes of the thriftiest, with these few rows and trees as with more.
    assert model["moved_bytes"] <= min(f["moved_bytes"] for f in others)
    assert "on the device: less stall at no more bytes" in result["reason"]
    loaded = ReuseModel.load(Path(result["model"]))
    assert loaded.card.device_sha256 == sha256((Path(result["model"]) / PUSHED_FILE).read_bytes())
    assert loaded.card.trained > 0
    (version,) = registry.list_versions(name, store=store.uri)
    artifact = registry.version_folder(version, store=store.uri) / PUSHED_FILE
    assert artifact.read_bytes() == loaded.pushed
    assert float(version.tags["gate.device_stall_seconds"]) == pytest.approx(model["stall_seconds"], rel=1e-4)


@pytest.mark.parametrize(("more", "status"), [([], 4), (["--trees", "20000"], 6)])
def test_what_cannot_be_trained_on_is_one_line_and_no_result(
    tmp_path: Path, store: Store, name: str, capsys: pytest.CaptureFixture[str], more: list[str], status: int
) -> None:
    assert main([*arguments(tmp_path / "absent", tmp_path / "out", store, name), *more]) == status
    told = capsys.readouterr().err
    assert told.startswith("hotset: ")
    assert told.count("\n") == 1
    assert not (tmp_path / "out" / "result.json").exists()


@pytest.mark.e2e
def test_a_kill_at_any_moment_leaves_a_registry_and_folders_that_work(
    make_log: MakeLog, tmp_path: Path, store: Store, name: str
) -> None:
    log = make_log(sequences=3, steps=200)
    # What the job has just made when it is killed, and how long after.
    for moment, (sign, later) in enumerate([(".rows-*", 0.05), ("model", 0.0), ("plots", 0.0), ("plots", 0.25)]):
        out = tmp_path / str(moment)
        child = start(arguments(log, out, store, name))
        while child.poll() is None and not list(out.glob(sign)):
            time.sleep(0.005)
        time.sleep(later)
        child.kill()
        child.wait()
        check_all_is_whole(out, store, name)
    assert list((tmp_path / "0").glob(".rows-*"))
    assert start(arguments(log, tmp_path / "0", store, name)).wait() == 0
    assert {path.name for path in (tmp_path / "0").iterdir()} == {"model", "plots", "result.json"}
    runs = store.client.search_runs([store.experiment(name)])
    assert {run.info.status for run in runs} <= {"FINISHED", "KILLED"}


def start(told: list[str]) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "hotset.training.job", *told]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def check_all_is_whole(out: Path, store: Store, name: str) -> None:
    versions = registry.list_versions(name, store=store.uri)
    for version in versions:
        ReuseModel.load(registry.version_folder(version, store=store.uri))
    aliases = [alias for version in versions for alias in version.aliases]
    assert len(aliases) == len(set(aliases))
    if (out / "model").exists():
        ReuseModel.load(out / "model")
    if (out / "result.json").exists():
        json.loads((out / "result.json").read_text())


@pytest.mark.e2e
def test_a_terminated_job_cleans_up_behind_itself(make_log: MakeLog, tmp_path: Path, store: Store, name: str) -> None:
    out = tmp_path / "out"
    # As many trees as take far longer than this test might be kept waiting by a busy machine.
    told = arguments(make_log(sequences=4, steps=600), out, store, name)
    child = start([*told, "--trees", "512"])
    while child.poll() is None and not list(out.glob(".rows-*")):
        time.sleep(0.02)
    child.terminate()
    assert child.wait(timeout=60) == 128 + signal.SIGTERM
    assert not list(out.glob(".rows-*"))
    assert not (out / "result.json").exists()


class ToldInAFinalizer:
    """Python prints and drops what a finalizer raises."""

    def __del__(self) -> None:
        os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_termination_that_a_finalizer_drops_ends_the_job_at_the_next_report() -> None:
    before = signal.getsignal(signal.SIGTERM)
    try:
        termination = Termination()
        termination.check("sampling", 0, 1)
        ToldInAFinalizer()
        with pytest.raises(SystemExit) as ended:
            termination.check("sampling", 1, 1)
        assert ended.value.code == 128 + signal.SIGTERM
    finally:
        signal.signal(signal.SIGTERM, before)
