"""Turns what the daemon and its sessions know into the metrics of `hotset.protos.metrics`, when it is scraped."""

from __future__ import annotations

import platform
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from itertools import accumulate
from typing import Protocol

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.registry import Collector

from hotset.daemon.status import SessionStatus
from hotset.protos import metrics


@dataclass
class ProcessStatus:
    """What the daemon as a whole did. Written by its serving thread only."""

    started: float
    sessions_ended: int = 0
    reloads: dict[str, int] = field(default_factory=lambda: {"taken": 0, "refused": 0})


class Source(Protocol):
    """Whoever knows the sessions that are served now, and how the daemon is."""

    process: ProcessStatus

    @property
    def statuses(self) -> Sequence[SessionStatus]:
        """Of the sessions."""

    @property
    def uptime(self) -> float:
        """Seconds since the start."""

    def unhealthy(self) -> list[str]:
        """Reasons to restart the daemon; none if it is well."""

    def unready(self) -> list[str]:
        """Reasons why it does not serve (yet, any more); none if it does."""


class DaemonCollector(Collector):
    """One sample a metric, or one a session and metric; a session that has ended is not shown."""

    def __init__(self, source: Source) -> None:
        self._source = source

    def collect(self) -> Iterator[Family]:
        """All families, those without samples too."""
        families = {metric.name: _family(metric) for metric in metrics.ALL if metric.kind != "histogram"}
        plans = HistogramMetricFamily(
            metrics.PLAN_SECONDS.name, metrics.PLAN_SECONDS.help, labels=metrics.SESSION_LABELS
        )
        for status in self._source.statuses:
            labels = [str(status.about.get(key, "")) for key in metrics.SESSION_LABELS]
            for metric, more, value in session_samples(status):
                families[metric.name].add_metric([*labels, *more], value)
            plans.add_metric(labels, _buckets(status), status.plan_seconds_sum)
        for metric, labels, value in _process_samples(self._source):
            families[metric.name].add_metric(labels, value)
        yield from families.values()
        yield plans


def registry_of(source: Source) -> CollectorRegistry:
    """The daemon's metrics, and those of the Python process that every client of Prometheus has."""
    registry = CollectorRegistry()
    registry.register(DaemonCollector(source))
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    GCCollector(registry=registry)
    return registry


Sample = tuple[metrics.Metric, list[str], float]


def session_samples(status: SessionStatus) -> Iterator[Sample]:
    """What one session shows; gauges that are not known are left out."""
    for name, metric in metrics.COUNTERS.items():
        yield metric, [], getattr(status.counters, name)
    for reason, count in status.counters.entries_rejected.copy().items():
        yield metrics.REJECTED, [reason], count
    for name, metric in metrics.GAUGES.items():
        value = getattr(status.gauges, name) if hasattr(status.gauges, name) else status.known(name)
        if value is not None:
            yield metric, [], float(value)
    yield from _layer_samples(status)


def _layer_samples(status: SessionStatus) -> Iterator[Sample]:
    """Nothing from a runtime that tells nothing by layer."""
    if status.layers is None or not status.layers.steps:
        return
    page_bytes = float(status.about["geometry"]["page_bytes"])
    for metric, causes, unit in metrics.LAYERS:
        for cause, figure in causes.items():
            for layer, value in enumerate(status.layers.total[figure].tolist()):
                yield metric, [*([cause] if cause else []), str(layer)], value * (unit or page_bytes)


def _process_samples(source: Source) -> Iterator[Sample]:
    yield metrics.BUILD_INFO, [_version(), platform.python_version()], 1
    yield metrics.UPTIME, [], source.uptime
    yield metrics.READY, [], not source.unready()
    roles = Counter(status.role for status in source.statuses)
    for role in ("controller", "standby"):
        yield metrics.SESSIONS, [role], roles[role]
    yield metrics.SESSIONS_ENDED, [], source.process.sessions_ended
    for result, count in source.process.reloads.items():
        yield metrics.RELOADS, [result], count


def _family(metric: metrics.Metric) -> CounterMetricFamily | GaugeMetricFamily:
    kind = CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily
    own = metrics.SESSION_LABELS if metric in metrics.SESSION else ()
    return kind(metric.name, metric.help, labels=[*own, *metric.labels])


def _buckets(status: SessionStatus) -> list[tuple[str, float]]:
    borders = [*map(str, metrics.PLAN_BUCKETS), "+Inf"]
    return list(zip(borders, map(float, accumulate(status.plans_within)), strict=True))


def _version() -> str:
    try:
        return version("hotset")
    except PackageNotFoundError:
        return "unknown"
