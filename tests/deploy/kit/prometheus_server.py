"""A real Prometheus over one daemon, with the rules as they are or with time running faster in them."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]
from queries import ALERTS
from sandbox import until

PROMETHEUS = shutil.which("prometheus")
_CONFIG = """
global: {{scrape_interval: 500ms, scrape_timeout: 500ms, evaluation_interval: 500ms}}
rule_files: [{rules}]
scrape_configs: [{{job_name: hotset, static_configs: [{{targets: ["127.0.0.1:{port}"]}}]}}]
"""
_SECONDS = {"s": 1, "m": 60, "h": 3600}
_DURATION = re.compile(r"(?<=\[)(\d+)([smh])(?=\])|(?<=offset )(\d+)([smh])")


class Prometheus:
    """Scrapes the daemon at `port` twice a second; a context manager."""

    def __init__(self, folder: Path, port: int, rules: Path = ALERTS) -> None:
        assert PROMETHEUS is not None
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "prometheus.yml").write_text(_CONFIG.format(rules=rules, port=port))
        self._address = f"127.0.0.1:{free_port()}"
        self._command = [
            PROMETHEUS, f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data",
            f"--web.listen-address={self._address}", "--log.level=error",
        ]  # fmt: skip

    def __enter__(self) -> Prometheus:
        self._process = subprocess.Popen(self._command)
        until(self._listens)
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait()

    def ask(self, path: str, **arguments: str) -> Any:
        """`data` of an answer of its API."""
        url = f"http://{self._address}/api/v1/{path}?{urllib.parse.urlencode(arguments)}"
        with urllib.request.urlopen(url, timeout=5) as answer:
            return json.load(answer)["data"]

    @property
    def rules(self) -> list[dict[str, Any]]:
        """All of them, as evaluated last."""
        return [rule for group in self.ask("rules")["groups"] for rule in group["rules"]]

    @property
    def firing(self) -> set[str]:
        """Names of the alerts that fire now."""
        return {a["labels"]["alertname"] for a in self.ask("alerts")["alerts"] if a["state"] == "firing"}

    @property
    def scrapes(self) -> int:
        """How often the daemon answered, of late."""
        (up,) = self.ask("query", query="sum_over_time(up[5m])")["result"] or [{"value": [0, "0"]}]
        return int(up["value"][1])

    def _listens(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://{self._address}/-/ready", timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False


def faster(factor: int, target: Path) -> Path:
    """A copy of the alert rules, in which every duration is `factor` times shorter."""
    rules = yaml.safe_load(ALERTS.read_text())
    for rule in (rule for group in rules["groups"] for rule in group["rules"]):
        rule["expr"] = _DURATION.sub(lambda m: _shorter(m[1] or m[3], m[2] or m[4], factor), rule["expr"])
        if "for" in rule:
            rule["for"] = _shorter(rule["for"][:-1], rule["for"][-1], factor)
    target.write_text(yaml.safe_dump(rules, sort_keys=False))
    return target


def free_port() -> int:
    """One that nobody listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _shorter(number: str, unit: str, factor: int) -> str:
    return f"{int(number) * _SECONDS[unit] * 1000 // factor}ms"
