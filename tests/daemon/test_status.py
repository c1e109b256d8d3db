"""status.json, the Prometheus endpoint, and what a training leaves."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import asdict, fields
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from hotset.daemon import probe
from hotset.daemon.http import MOST_CONNECTIONS, Endpoint
from hotset.daemon.metrics import ProcessStatus
from hotset.daemon.status import PHASES, SessionCounters, SessionGauges, SessionStatus
from hotset.daemon.training import read_result
from hotset.protos import metrics
from hotset.protos.errors import HotsetError, ModelError
from hotset.protos.messages import Advice


class Source:
    """A daemon that says what it is told to."""

    uptime = 12.0

    def __init__(self, *statuses: SessionStatus, hangs: str = "", waits: str = "") -> None:
        self.statuses = statuses
        self.process = ProcessStatus(started=0.0, sessions_ended=4)
        self._hangs, self._waits = hangs, waits

    def unhealthy(self) -> list[str]:
        return [self._hangs] if self._hangs else []

    def unready(self) -> list[str]:
        return [self._waits] if self._waits else []


def get(source: Source, path: str, accept: str = "") -> tuple[int, str, str]:
    """Status, content type and body of one request."""
    endpoint = Endpoint(source, "127.0.0.1", 0)
    request = urllib.request.Request(f"http://127.0.0.1:{endpoint.port}{path}", headers={"Accept": accept})
    try:
        with urllib.request.urlopen(request) as answer:
            return answer.status, answer.headers["Content-Type"], answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.headers["Content-Type"], error.read().decode()
    finally:
        endpoint.close()


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


def test_phases_are_bounded_and_keep_both_ends(status: SessionStatus) -> None:
    for number in range(1000):
        status.phase("learned", number=number)
    numbers = [phase["number"] for phase in status.phases]
    assert numbers == [*range(PHASES), *range(1000 - PHASES, 1000)]


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


def test_every_counter_and_gauge_is_a_metric(status: SessionStatus) -> None:
    assert {f.name for f in fields(SessionCounters)} == {*metrics.COUNTERS, "entries_rejected"}
    held = {f.name for f in fields(SessionGauges)}
    assert held <= metrics.GAUGES.keys()
    for name in metrics.GAUGES.keys() - held:
        assert status.known(name) == 0
    assert len({metric.name for metric in metrics.ALL}) == len(metrics.ALL)
    for metric in metrics.ALL:
        assert metric.name.startswith("hotset_")
        assert metric.name.endswith("_total") == (metric.kind == "counter")
        assert not metric.help[0].islower()
        assert not metric.help.endswith(".")


def values(text: str) -> dict[str, float]:
    """Samples of an exposition by name and labels, as Prometheus' own parser reads them."""
    return {
        sample.name + "".join(f" {k}={v}" for k, v in sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_the_endpoint_shows_sessions_and_process(status: SessionStatus) -> None:
    for number, name in enumerate(asdict(status.counters)):
        if name != "entries_rejected":
            setattr(status.counters, name, number)
    status.counters.entries_rejected = {"late": 3}
    status.role, status.source = "controller", "learned"
    status.gauges.drift = 0.25
    for seconds in (0.0005, 0.003, 0.003, 7.0):
        status.planned(seconds)
    status.advised(Advice(number=1, concurrency=5))
    code, kind, text = get(Source(status), "/metrics")
    assert (code, kind.partition(";")[0]) == (200, "text/plain")
    read, labels = values(text), "model=m pid=7"
    assert read[f"hotset_steps_received_total {labels} session=s1"] == 0
    assert read[f"hotset_hits_total {labels} session=s1"] == 2
    assert read[f"hotset_plan_entries_rejected_total {labels} reason=late session=s1"] == 3
    assert read[f"hotset_learned {labels} session=s1"] == 1
    assert read[f"hotset_feature_drift_max {labels} session=s1"] == 0.25
    assert read[f"hotset_advised_sequences {labels} session=s1"] == 5
    assert f"hotset_advised_hot_slots {labels} session=s1" not in read
    within = {
        border: read[f"hotset_plan_seconds_bucket le={border} {labels} session=s1"] for border in ("0.002", "+Inf")
    }
    assert within == {"0.002": 1, "+Inf": 4}
    assert read["hotset_plan_seconds_count model=m pid=7 session=s1"] == 4
    assert read["hotset_sessions role=controller"] == 1
    assert read["hotset_sessions role=standby"] == 0
    assert read["hotset_sessions_ended_total"] == 4
    assert read["hotset_uptime_seconds"] == 12
    assert "process_resident_memory_bytes" in read


def test_a_session_that_ended_is_shown_no_more(status: SessionStatus) -> None:
    assert "session=s1" in " ".join(values(get(Source(status), "/metrics")[2]))
    assert "session=" not in " ".join(values(get(Source(), "/metrics")[2]))


def test_open_metrics_are_served_to_who_asks() -> None:
    _, kind, text = get(Source(), "/metrics", "application/openmetrics-text; version=1.0.0")
    assert kind.startswith("application/openmetrics-text")
    assert text.endswith("# EOF\n")


def test_health_and_readiness_give_reasons() -> None:
    source = Source(hangs="session ab hangs", waits="compiling")
    code, kind, body = get(source, "/healthz")
    assert (code, kind, json.loads(body)) == (
        503, "application/json", {"healthy": False, "reasons": ["session ab hangs"]}
    )  # fmt: skip
    assert (get(source, "/readyz")[0], json.loads(get(source, "/readyz")[2])["reasons"]) == (503, ["compiling"])
    assert json.loads(get(Source(), "/readyz?verbose")[2]) == {"ready": True, "reasons": []}
    assert get(Source(), "/healthz")[0] == 200
    assert get(Source(), "/")[0] == 404


def test_the_probe_asks_the_daemon_of_the_same_variables() -> None:
    endpoint = Endpoint(Source(hangs="session ab hangs"), "127.0.0.1", 0)
    # A proxy is not asked what is on this machine.
    variables = {"HOTSET_METRICS_PORT": str(endpoint.port), "http_proxy": "http://127.0.0.1:9"}
    command = [sys.executable, "-m", "hotset.daemon.probe"]
    try:
        done = subprocess.run(command, env=os.environ | variables, capture_output=True, text=True, check=False)
        assert (done.returncode, json.loads(done.stderr)["reasons"]) == (1, ["session ab hangs"])
        endpoint.source = Source()
        assert probe.trouble(variables) == ""
    finally:
        endpoint.close()
    assert f"127.0.0.1:{endpoint.port}/healthz: " in probe.trouble(variables)
    assert probe.url({}) == "http://127.0.0.1:9747/healthz"
    assert probe.url({"HOTSET_METRICS_HOST": "::"}) == "http://[::1]:9747/healthz"
    assert probe.url({"HOTSET_METRICS_HOST": "node7"}) == "http://node7:9747/healthz"


def test_too_many_connections_are_closed_and_do_not_stop_later_ones() -> None:
    endpoint = Endpoint(Source(), "127.0.0.1", 0)
    idle = [socket.create_connection(("127.0.0.1", endpoint.port)) for _ in range(MOST_CONNECTIONS)]
    try:
        with socket.create_connection(("127.0.0.1", endpoint.port)) as late:
            late.settimeout(10)
            assert late.recv(1) == b""
        for held in idle:
            held.close()
        end = time.monotonic() + 10
        while True:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{endpoint.port}/healthz") as answer:
                    assert answer.status == 200
                break
            except OSError:
                # The server may not have noticed yet that they are gone.
                assert time.monotonic() < end
                time.sleep(0.02)
    finally:
        endpoint.close()


def test_a_port_that_is_taken_is_one_error() -> None:
    held = Endpoint(Source(), "127.0.0.1", 0)
    try:
        with pytest.raises(HotsetError, match="cannot serve metrics"):
            Endpoint(Source(), "127.0.0.1", held.port)
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
