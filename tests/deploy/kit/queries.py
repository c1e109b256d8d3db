"""What the dashboard and the alert rules ask of Prometheus: their expressions, and which series these need."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml  # type: ignore[import-untyped]

DEPLOY = Path(__file__).resolve().parents[3] / "ops" / "deploy"
ALERTS = DEPLOY / "prometheus" / "alerts.yml"
DASHBOARD = DEPLOY / "grafana" / "hotset.json"
SCRAPED = frozenset({"instance", "job"})
"""Labels that Prometheus itself gives to what it scrapes."""
_SELECTOR = re.compile(r"\b((?:hotset|process)_\w+|up)\b(?:\{([^}]*)\})?")
_MATCHER = re.compile(r'(\w+)\s*(=~|!~|=|!=)\s*"([^"]*)"')
_GROUPING = re.compile(r"\b(?:by|on)\s*\(([^)]*)\)")


class Selector(NamedTuple):
    """One `name{label="value"}` of an expression."""

    name: str
    matchers: tuple[tuple[str, str, str], ...]

    def takes(self, name: str, labels: Mapping[str, str]) -> bool:
        """Whether a series is meant. Labels that Prometheus gives take anything, as the series has not got them yet."""
        return name == self.name and all(
            _matches(how, value, labels.get(label, "")) for label, how, value in self.matchers if label not in SCRAPED
        )


class Query(NamedTuple):
    """An expression, and how it is shown."""

    where: str
    expression: str
    texts: str
    """Legends, summaries and whatever else names labels of the result."""

    @property
    def selectors(self) -> list[Selector]:
        """All that it asks for; a dashboard's variables take everything."""
        found = _SELECTOR.findall(self.expression)
        return [Selector(name, tuple(_MATCHER.findall(_plain(inside)))) for name, inside in found]

    @property
    def grouping(self) -> set[str]:
        """Labels that it groups or joins by."""
        return {label.strip() for inside in _GROUPING.findall(self.expression) for label in inside.split(",")}

    @property
    def shown(self) -> set[str]:
        """Labels of the result that its texts name."""
        return set(re.findall(r"\{\{\s*(?:\$labels\.)?(\w+)\s*\}\}", self.texts))

    def for_prometheus(self, interval: str) -> str:
        """As the dashboard would ask with all its variables at All."""
        return _plain(self.expression.replace("$__rate_interval", interval))


def panels() -> list[dict[str, Any]]:
    """The dashboard's panels, rows of them left out."""
    listed: list[dict[str, Any]] = json.loads(DASHBOARD.read_text())["panels"]
    return [panel for panel in listed if panel["type"] != "row"]


def dashboard() -> list[Query]:
    """Every target of every panel."""
    return [
        Query(panel["title"], target["expr"], target.get("legendFormat", ""))
        for panel in panels() for target in panel["targets"]
    ]  # fmt: skip


def alerts() -> list[Query]:
    """Every rule."""
    groups = yaml.safe_load(ALERTS.read_text())["groups"]
    return [
        Query(rule["alert"], rule["expr"], rule["annotations"]["summary"])
        for group in groups for rule in group["rules"]
    ]  # fmt: skip


def _plain(expression: str) -> str:
    return re.sub(r"\$\w+", ".*", expression)


def _matches(how: str, value: str, label: str) -> bool:
    same = bool(re.fullmatch(value, label)) if "~" in how else value == label
    return same == how.startswith("=")
