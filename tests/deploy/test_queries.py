"""The dashboard and the alerts ask for names and labels that a daemon shows."""

from __future__ import annotations

import re

import pytest
from queries import SCRAPED, Query, alerts, dashboard

from hotset.protos import metrics

ALL = {metric.name: metric for metric in metrics.ALL}


def labels_of(series: str) -> set[str]:
    """What a series of that name carries, once scraped; nothing if there is none."""
    if not series.startswith("hotset_"):
        return set(SCRAPED)
    metric = ALL.get(series) or ALL.get(re.sub(r"_(bucket|sum|count)$", "", series))
    if metric is None:
        return set()
    own = set(metrics.SESSION_LABELS) if metric in metrics.SESSION else set()
    return own | {*metric.labels} | SCRAPED | ({"le"} if series.endswith("_bucket") else set())


def missing(query: Query) -> set[str]:
    """Labels that a query asks for, or shows, and that are not there."""
    # What is summed up by some labels has no others left to show.
    lost = query.shown - query.grouping - {"value"} if query.grouping else set()
    for selector in query.selectors:
        asked = {label for label, *_ in selector.matchers} | query.grouping | (query.shown - {"value"})
        lost |= asked - labels_of(selector.name)
    return lost


@pytest.mark.parametrize("query", [*dashboard(), *alerts()], ids=lambda query: query.where)
def test_every_label_that_is_asked_for_is_there(query: Query) -> None:
    assert query.selectors
    assert missing(query) == set()


@pytest.mark.parametrize(
    ("expression", "legend", "lost"),
    [
        ('hotset_sequences{instance=~"$instance", process="7"}', "", {"process"}),
        ("sum by (cause) (rate(hotset_moved_bytes_total[5m]))", "{{cause}}", {"cause"}),
        ("sum by (pid) (hotset_sequences)", "{{instance}} {{pid}}", {"instance"}),
        ("sum by (le) (rate(hotset_plan_seconds_count[5m]))", "", {"le"}),
        ("hotset_ready == 0", "{{ $labels.pid }}", {"pid"}),
        ("hotset_gone{pid=~'.*'} * on (session) hotset_epoch", "", {"session"}),
    ],
)
def test_a_label_that_is_not_there_is_noticed(expression: str, legend: str, lost: set[str]) -> None:
    assert missing(Query("made up", expression, legend)) == lost
