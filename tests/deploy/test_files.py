"""The deploy files load, agree with each other and with the code, and name only metrics that there are."""

from __future__ import annotations

import configparser
import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]
from queries import ALERTS, DASHBOARD, DEPLOY, dashboard

from hotset.daemon.config import KEYS
from hotset.daemon.server import STUCK_SECONDS
from hotset.daemon.settings import OTHER_VARIABLES, load
from hotset.protos import metrics

ROOT = Path(__file__).resolve().parents[2]
PORT = 9747


def read_yaml(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


def read_unit() -> dict[str, dict[str, list[str]]]:
    """systemd's format: keys may come again."""
    sections: dict[str, dict[str, list[str]]] = {}
    section: dict[str, list[str]] = {}
    for line in (DEPLOY / "systemd" / "hotset-daemon.service").read_text().splitlines():
        if line.startswith("["):
            section = sections.setdefault(line.strip("[]"), {})
        elif line and not line.startswith("#"):
            key, _, value = line.partition("=")
            section.setdefault(key, []).append(value)
    return sections


def metric_names(text: str) -> set[str]:
    """Our metrics named in an expression or a page, a histogram by its own name."""
    found = set(re.findall(r"\bhotset_[a-z_]+[a-z]\b", text))
    return {re.sub(r"_(bucket|sum|count)$", "", name) if name not in ALL else name for name in found}


ALL = {metric.name for metric in metrics.ALL}
EXPRESSIONS = [query.expression for query in dashboard()]


def test_alerts_are_whole_and_name_metrics_that_there_are() -> None:
    groups = read_yaml(ALERTS)["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    assert len({rule["alert"] for rule in rules}) == len(rules)
    for rule in rules:
        assert rule.keys() <= {"alert", "expr", "for", "labels", "annotations"}
        assert rule["labels"]["severity"] in {"info", "warning", "critical"}
        assert rule["annotations"].keys() == {"summary", "action"}
        assert metric_names(rule["expr"]) <= ALL
        assert rule["expr"].count("(") == rule["expr"].count(")")


def test_the_dashboard_is_whole_and_names_metrics_that_there_are() -> None:
    dashboard = json.loads(DASHBOARD.read_text())
    assert dashboard["schemaVersion"] >= 36
    variables = {variable["name"] for variable in dashboard["templating"]["list"]}
    panels = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        cells = {(x, y) for x in range(place["x"], place["x"] + place["w"])
                 for y in range(place["y"], place["y"] + place["h"])}  # fmt: skip
        assert place["x"] + place["w"] <= 24
        assert not cells & taken
        taken |= cells
        assert panel["type"] in {"row", "timeseries"}
        assert panel["type"] == "row" or (panel["targets"] and panel["description"])
    for expression in EXPRESSIONS:
        assert metric_names(expression) <= ALL
        assert set(re.findall(r"\$(\w+)", expression)) <= variables | {"__rate_interval"}
    assert len(metric_names(" ".join(EXPRESSIONS))) > 30


def test_the_page_names_metrics_that_there_are() -> None:
    assert metric_names((ROOT / "docs" / "metrics.md").read_text()) == ALL


def test_the_scrape_configuration_finds_the_daemon_and_its_alerts() -> None:
    config = read_yaml(DEPLOY / "prometheus" / "prometheus.yml")
    assert config["rule_files"] == [ALERTS.name]
    (job,) = config["scrape_configs"]
    assert job["job_name"].startswith("hotset")
    assert job["static_configs"][0]["targets"] == [f"127.0.0.1:{PORT}"]


@pytest.mark.parametrize("folder", ["systemd", "kubernetes"])
def test_the_example_configurations_hold(folder: str) -> None:
    path = DEPLOY / folder / "daemon.toml"
    assert load({}, path).config.train
    if folder == "systemd":
        assert tomllib.loads(path.read_text())["metrics_port"] == PORT


def variables_of(unit: dict[str, list[str]]) -> dict[str, str]:
    return dict(pair.split("=", 1) for line in unit["Environment"] for pair in line.split())


def known(names: set[str]) -> bool:
    return {n for n in names if n.startswith("HOTSET_")} <= OTHER_VARIABLES | {k.variable for k in KEYS.values()}


def test_the_unit_agrees_with_the_daemon() -> None:
    unit = read_unit()
    service = unit["Service"]
    assert service["Type"] == ["notify"]
    assert service["ExecStart"][0].endswith("hotset daemon --config /etc/hotset/daemon.toml")
    # A loop may hang so long before the daemon itself says so; systemd must not be quicker.
    assert int(service["WatchdogSec"][0]) > STUCK_SECONDS
    variables = variables_of(service)
    assert known(set(variables))
    assert variables["HOTSET_RUNTIME_DIR"] == f"/run/{service['RuntimeDirectory'][0]}"
    assert service["RuntimeDirectoryMode"] == ["0700"]
    assert service["RuntimeDirectoryPreserve"] == ["yes"]
    assert variables["HOTSET_LOG_DIR"].startswith(f"/var/lib/{service['StateDirectory'][0]}/")
    assert configparser.ConfigParser.BOOLEAN_STATES[service["NoNewPrivileges"][0]]


def test_the_pod_shares_what_it_must() -> None:
    deployment = read_yaml(DEPLOY / "kubernetes" / "deployment.yaml")
    pod = deployment["spec"]["template"]["spec"]
    assert pod["shareProcessNamespace"] is True
    assert pod["enableServiceLinks"] is False
    assert pod["securityContext"]["runAsUser"] == 10001
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert deployment["spec"]["selector"]["matchLabels"].items() <= labels.items()
    volumes = {volume["name"] for volume in pod["volumes"]}
    decode, daemon = pod["containers"]
    folders = []
    for container in (decode, daemon):
        variables = {entry["name"]: entry["value"] for entry in container["env"]}
        assert known(set(variables))
        mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
        assert mounts.keys() <= volumes
        folders.append(variables["HOTSET_RUNTIME_DIR"])
        # The volume itself belongs to root and is open to all, which the daemon refuses.
        assert folders[-1].startswith(mounts["runtime"] + "/")
    assert folders[0] == folders[1]
    (port,) = daemon["ports"]
    assert port["containerPort"] == PORT
    assert daemon["livenessProbe"]["exec"]["command"] == ["python", "-m", "hotset.daemon.probe"]
    assert daemon["readinessProbe"]["httpGet"]["path"] == "/readyz"
    kustomization = read_yaml(DEPLOY / "kubernetes" / "kustomization.yaml")
    for name in kustomization["resources"] + kustomization["configMapGenerator"][0]["files"]:
        assert (DEPLOY / "kubernetes" / name).is_file()
    assert kustomization["configMapGenerator"][0]["name"] == "hotset-daemon"
