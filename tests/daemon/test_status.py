"""status.json, the Prometheus endpoint, and what a training leaves."""

from __future__ import annotations

import json
import urllib.request
from dataclasses import asdict, fields
from pathlib import Path

import pytest

from hotset.daemon.metrics import serve_metrics
from hotset.daemon.status import SessionCounters, SessionStatus
from hotset.daemon.training import read_result
from hotset.protos import metrics
from hotset.protos.errors import HotsetError, ModelError


class Source:
    def __init__(self, *statuses: SessionStatus) -> None:
        self.statuses = statuses


@pytest.fixture
def status(tmp_path: Path) -> SessionStatus:
    return SessionStatus(tmp_path, session="s1", pid=7, model="m")


def test_phases_and_counters_are_in_the_file(status: SessionStatus) -> None:
    status.epoch = 12
    status.counters.steps_received = 5
    status.counters.entries_rejected = {"late": 3}
    status.phase("swap", version="9b")
    written = json.loads(status.path.read_text())
    assert written["counters"]["steps_received"] == 5
    assert written["counters"]["entries_rejected"] == {"late": 3}
    assert written["pid"] == 7
    (phase,) = written["phases"]
    assert (phase["phase"], phase["epoch"], phase["version"]) == ("swap", 12, "9b")


def test_plan_quantiles_are_those_of_recent_plans(status: SessionStatus) -> None:
    assert status.plan_quantiles() == {}
    for i in range(1000):
        status.planned(1.0 if i < 488 else (i - 487) / 1000)
    quantiles = status.plan_quantiles()
    assert quantiles["0.5"] == pytest.approx(0.2565)
    assert quantiles["0.99"] == pytest.approx(0.507, abs=2e-3)


def test_a_status_that_cannot_be_written_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    SessionStatus(tmp_path / "missing", session="s").phase("attach")
    assert "event=status_failed" in caplog.text


def test_every_counter_is_a_metric() -> None:
    assert {f.name for f in fields(SessionCounters)} == {*metrics.COUNTERS, "entries_rejected"}
    assert len({metric.name for metric in metrics.ALL}) == len(metrics.ALL)
    for metric in metrics.ALL:
        assert metric.name.startswith("hotset_")
        assert metric.name.endswith("_total") == (metric.kind == "counter")


def test_the_endpoint_shows_the_sessions(status: SessionStatus) -> None:
    for number, name in enumerate(asdict(status.counters)):
        if name != "entries_rejected":
            setattr(status.counters, name, number)
    status.counters.entries_rejected = {"late": 3}
    status.role, status.source = "controller", "learned"
    exporter = serve_metrics(Source(status), 0)
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{exporter.port}/metrics") as answer:
            text = answer.read().decode()
    finally:
        exporter.close()
    labels = 'model="m",pid="7"'
    assert f'hotset_steps_received_total{{{labels},session="s1"}} 0.0' in text
    assert f'hotset_hits_total{{{labels},session="s1"}} 2.0' in text
    assert f'hotset_plan_entries_rejected_total{{{labels},reason="late",session="s1"}} 3.0' in text
    assert f'hotset_learned{{{labels},session="s1"}} 1.0' in text


def test_a_port_that_is_taken_is_one_error() -> None:
    held = serve_metrics(Source(), 0)
    try:
        with pytest.raises(HotsetError, match="cannot serve metrics"):
            serve_metrics(Source(), held.port)
    finally:
        held.close()


def test_a_result_names_its_model_relative_to_itself(tmp_path: Path) -> None:
    (tmp_path / "result.json").write_text(
        '{"model": "model", "version": 1, "promoted": true, "mlflow_run": {"run": "x"}, "more": 1}'
    )
    result = read_result(tmp_path / "result.json")
    assert result.model == tmp_path / "model"
    assert result.promoted


@pytest.mark.parametrize("text", [None, "", "{}", "[1]", '{"model": 3}'])
def test_a_missing_or_damaged_result_is_one_error(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "result.json").write_text(text)
    with pytest.raises(ModelError, match="does not say what was trained"):
        read_result(tmp_path / "result.json")
