"""Prometheus' own tool, where there is one: files load, expressions parse, each alert fires on what it is for only."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
import yaml  # type: ignore[import-untyped]
from queries import DEPLOY, dashboard

PROMETHEUS = DEPLOY / "prometheus"
pytestmark = pytest.mark.skipif(shutil.which("promtool") is None, reason="needs promtool, of Debian's prometheus")

SESSION = 'session="s", pid="1", model="m"'
HEALTHY = {
    f"hotset_accesses_total{{{SESSION}}}": "0+1000x180",
    f"hotset_hits_total{{{SESSION}}}": "0+950x180",
    f"hotset_step_seconds_total{{{SESSION}}}": "0+60x180",
    f"hotset_stall_seconds_total{{{SESSION}}}": "0+3x180",
    f"hotset_plans_sent_total{{{SESSION}}}": "0+600x180",
    f"hotset_plans_refused_total{{{SESSION}}}": "0+6x180",
    f"hotset_plans_dropped_total{{{SESSION}}}": "0x180",
    f'hotset_plan_seconds_bucket{{{SESSION}, le="0.064"}}': "0+600x180",
    f'hotset_plan_seconds_bucket{{{SESSION}, le="1.0"}}': "0+600x180",
    f'hotset_plan_seconds_bucket{{{SESSION}, le="+Inf"}}': "0+600x180",
    f"hotset_steps_received_total{{{SESSION}}}": "0+600x180",
    f"hotset_steps_skipped_total{{{SESSION}}}": "0x180",
    f"hotset_messages_lost_total{{{SESSION}}}": "0x180",
    f"hotset_observed_lanes_ratio{{{SESSION}}}": "1x180",
    f"hotset_models_refused_total{{{SESSION}}}": "0x180",
    f"hotset_models_withdrawn_total{{{SESSION}}}": "0x180",
    f"hotset_guard_ok{{{SESSION}}}": "1x180",
    f"hotset_retrain_wanted{{{SESSION}}}": "0x180",
    f"hotset_controller{{{SESSION}}}": "1x180",
    # In another container a process may have the same number.
    'hotset_controller{session="t", pid="1", model="m"}': "1x180",
    f"hotset_log_failed{{{SESSION}}}": "0x180",
    f"hotset_log_dropped_total{{{SESSION}}}": "0x180",
    'up{job="hotset"}': "1x180",
    'hotset_ready{job="hotset"}': "1x180",
    'hotset_config_reloads_total{result="refused"}': "0x180",
}
# What is wrong, and the one alert that it sets off.
ILL = [
    ("hotset_hits_total", "0+950x120 114000+500x60", "HotsetHitRatioDropped"),
    ("hotset_stall_seconds_total", "0+20x180", "HotsetStallShareHigh"),
    ('hotset_plan_seconds_bucket{session="s", pid="1", model="m", le="0.064"}', "0+300x180", "HotsetPlansLate"),
    ("hotset_plans_refused_total", "0+300x180", "HotsetPlansRefused"),
    ("hotset_plans_dropped_total", "0+300x180", "HotsetPlansRefused"),
    ("hotset_models_refused_total", "0x138 1x42", "HotsetModelRefused"),
    ("hotset_models_refused_total", "_x138 1x42", "HotsetModelRefused"),
    ("hotset_models_withdrawn_total", "0x138 1x42", "HotsetModelWithdrawn"),
    ("hotset_models_withdrawn_total", "_x138 1x42", "HotsetModelWithdrawn"),
    ("hotset_guard_ok", "0x180", "HotsetGuardTookOver"),
    ("hotset_retrain_wanted", "1x180", "HotsetRetrainWanted"),
    ("hotset_controller", "0x180", "HotsetNoController"),
    ("hotset_log_failed", "1x180", "HotsetLogFailing"),
    ("hotset_log_dropped_total", "0+5x180", "HotsetLogFailing"),
    ("hotset_observed_lanes_ratio", "0.5x180", "HotsetShedding"),
    ("hotset_steps_skipped_total", "0+300x180", "HotsetShedding"),
    ("hotset_messages_lost_total", "0+2x180", "HotsetShedding"),
    ("up", "0x180", "HotsetDown"),
    ("hotset_ready", "0x180", "HotsetNotReady"),
    ("hotset_config_reloads_total", "0x138 1x42", "HotsetReloadRefused"),
]


def promtool(*arguments: object) -> None:
    done = subprocess.run(["promtool", *map(str, arguments)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_configuration_and_rules_load() -> None:
    promtool("check", "config", PROMETHEUS / "prometheus.yml")
    promtool("check", "rules", PROMETHEUS / "alerts.yml")


def test_every_expression_of_the_dashboard_parses(tmp_path: Path) -> None:
    plain = [query.for_prometheus("5m") for query in dashboard()]
    rules = [{"record": f"panel:{number}", "expr": text} for number, text in enumerate(plain)]
    (tmp_path / "rules.yml").write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    promtool("check", "rules", tmp_path / "rules.yml")


def test_each_alert_fires_on_what_it_is_for(tmp_path: Path) -> None:
    rules = yaml.safe_load((PROMETHEUS / "alerts.yml").read_text())["groups"]
    assert {alert for *_, alert in ILL} == {rule["alert"] for group in rules for rule in group["rules"]}
    cases = [case("healthy", HEALTHY, None)]
    for wrong, values, alert in ILL:
        name, *_ = [series for series in HEALTHY if series == wrong or series.startswith(wrong + "{")]
        cases.append(case(f"{wrong} {values}", HEALTHY | {name: values}, alert))
    tests = {"rule_files": [str(PROMETHEUS / "alerts.yml")], "evaluation_interval": "1m", "tests": cases}
    (tmp_path / "tests.yml").write_text(yaml.safe_dump(tests, sort_keys=False))
    promtool("test", "rules", tmp_path / "tests.yml")


def case(name: str, series: dict[str, str], alert: str | None) -> dict[str, object]:
    """`alert` fires 145 minutes after the start, and no other; none at all if it is None."""
    firing = [{"labels": f'{{alertname="{alert}"}}', "value": 1}] if alert else []
    expression = 'count by (alertname) (ALERTS{alertstate="firing"})'
    return {
        "name": name,
        "interval": "1m",
        "input_series": [{"series": key, "values": values} for key, values in series.items()],
        "promql_expr_test": [{"expr": expression, "eval_time": "145m", "exp_samples": firing}],
    }
