"""A daemon that steers real processes shows what the dashboard and the alerts ask for, and Prometheus agrees."""

from __future__ import annotations

import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from checkpoints import write_checkpoint
from prometheus_client.parser import text_string_to_metric_families
from prometheus_server import PROMETHEUS, Prometheus, free_port
from queries import Query, alerts, dashboard
from sandbox import Hotset, until

pytestmark = pytest.mark.e2e
SAMPLE = Path(__file__).resolve().parents[1] / "data" / "sample.parquet"


class Live(NamedTuple):
    """A daemon that steers, by a model, a played trace and a decode process with a queue."""

    port: int
    folder: Path

    def scrape(self) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics") as answer:
            families = text_string_to_metric_families(answer.read().decode())
            return {(s.name, frozenset(s.labels.items())): s.value for family in families for s in family.samples}

    def series(self, query: Query) -> list[list[str]]:
        """For each selector of a query, what it finds."""
        shown = self.scrape()
        return [[n for n, labels in shown if s.takes(n, dict(labels))] for s in query.selectors if s.name != "up"]


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    folder = tmp_path_factory.mktemp("live")
    write_checkpoint(folder / "checkpoint")
    prompts = []
    for i in range(24):
        (folder / f"{i}.txt").write_text(" ".join(f"w{(i * 5 + j * j) % 64}" for j in range(300)))
        prompts += ["--prompt-file", folder / f"{i}.txt"]
    processes, port = Hotset(folder), free_port()
    try:
        trained = processes.run("train", SAMPLE, "--out", folder / "trained", "--trees", 8, "--rows", 40000)
        assert trained.returncode == 0, trained.stderr
        processes.start("play", SAMPLE, "--speed", 60, "--times", 1000)
        processes.start(
            "decode", "--model", folder / "checkpoint", *prompts, "--max-running", 2, "--max-new-tokens", 800,
            "--page-size", 8, "--selected", 8, "--threads", 1, "--ignore-eos", "--link-gbps", 0.01,
        )  # fmt: skip
        processes.daemon("--model", folder / "trained" / "model", "--metrics-port", port)
        yield Live(port, folder)
    finally:
        processes.close()


@pytest.mark.parametrize("query", [*dashboard(), *alerts()], ids=lambda query: query.where)
def test_a_live_daemon_shows_what_is_asked_for(live: Live, query: Query) -> None:
    until(lambda: all(live.series(query)))


@pytest.mark.skipif(PROMETHEUS is None, reason="needs prometheus")
def test_prometheus_answers_every_panel_and_evaluates_every_rule(live: Live) -> None:
    with Prometheus(live.folder / "prometheus", live.port) as prometheus:

        def answered() -> bool:
            # A range of four scrapes.
            return all(prometheus.ask("query", query=q.for_prometheus("2s"))["result"] for q in dashboard())

        until(answered)
        until(lambda: all(rule["lastEvaluation"] > "1" for rule in prometheus.rules))
        assert {rule["name"] for rule in prometheus.rules} == {query.where for query in alerts()}
        assert [rule["lastError"] for rule in prometheus.rules if rule["health"] != "ok"] == []
