"""Each alert fires in a real Prometheus when the fault that it is for befalls real processes, and none without one.

Time in the rules runs faster: a rule of ten minutes takes ten seconds at a factor of 60. By default only what takes
seconds is tried; `ALERTS=all pytest -s tests/deploy/test_real_faults.py` tries all of them (some minutes).
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import faults
import pytest
from faults import STEADY, Scene
from prometheus_server import PROMETHEUS, Prometheus, faster, free_port
from queries import alerts
from sandbox import Hotset, until

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(PROMETHEUS is None, reason="needs prometheus, of Debian's package of that name"),
]
ALL = os.environ.get("ALERTS") == "all"
WELL_SCRAPES = 8
PATIENCE = 90.0


class Case(NamedTuple):
    """What befalls the processes, how much faster time runs in the rules, and what has to fire."""

    fault: Callable[[Scene], None]
    factor: int
    alerts: set[str]


# Rules that look at rates keep windows of some scrapes; the others need no such care.
CASES = [
    Case(faults.stopped, 60, {"HotsetDown"}),
    Case(faults.refused_configuration, 60, {"HotsetReloadRefused"}),
    Case(faults.full_disk, 60, {"HotsetLogFailing"}),
    Case(faults.hung_disk, 600, {"HotsetNotReady"}),
    Case(faults.somebody_elses, 60, {"HotsetNoController"}),
    Case(faults.starved, 60, {"HotsetShedding", "HotsetPlansLate", "HotsetPlansRefused"}),
    Case(faults.slow_link, 60, {"HotsetStallShareHigh"}),
    Case(faults.more_than_the_pool_holds, 60, {"HotsetHitRatioDropped"}),
    Case(faults.unlike_its_training, 600, {"HotsetGuardTookOver", "HotsetRetrainWanted"}),
    Case(faults.older_model, 60, {"HotsetModelRefused"}),
    Case(faults.misled, 60, {"HotsetModelWithdrawn"}),
]
QUICK = CASES[:2]


@pytest.mark.parametrize("case", CASES if ALL else QUICK, ids=lambda case: case.fault.__name__)
def test_the_fault_sets_off_its_alerts(case: Case, hotset: Hotset, tmp_path: Path) -> None:
    port, seen = free_port(), dict[str, float]()
    with Prometheus(tmp_path / "prometheus", port, faster(case.factor, tmp_path / "alerts.yml")) as prometheus:

        def well() -> None:
            until(lambda: prometheus.scrapes >= WELL_SCRAPES)
            assert not case.alerts & prometheus.firing

        def fired() -> bool:
            seen.update({alert: time.monotonic() for alert in prometheus.firing - seen.keys()})
            return seen.keys() >= case.alerts

        scene = Scene(hotset, port, well)
        try:
            case.fault(scene)
            since = time.monotonic()
            until(fired, PATIENCE)
        finally:
            scene.over.set()
            print(f"\n{case.fault.__name__}: { ({a: f'{at - since:.0f} s after' for a, at in seen.items()}) }")


def test_every_alert_has_its_fault() -> None:
    assert set().union(*(case.alerts for case in CASES)) == {query.where for query in alerts()}


@pytest.mark.skipif(not ALL, reason="most of a minute without an event; ALERTS=all")
def test_nothing_fires_without_a_fault(hotset: Hotset, tmp_path: Path) -> None:
    """A daemon steers, trains and swaps its model in, for what would be 40 minutes; then the decode process dies."""
    port, seen = free_port(), set[str]()
    with Prometheus(tmp_path / "prometheus", port, faster(60, tmp_path / "alerts.yml")) as prometheus:
        scene = Scene(hotset, port, lambda: None)
        scene.daemon("--train", "--train-after", 200, "--swap", "always")
        engine = scene.play((200, STEADY))
        for second in range(45):
            time.sleep(1)
            seen |= prometheus.firing
            if second == 40:
                engine.kill()
    assert seen == set()
    assert hotset.statuses()[0]["counters"]["swaps"] == 1
