"""Prometheus endpoint: reads the sessions' status when it is scraped."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from typing import Protocol
from wsgiref.simple_server import WSGIServer

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.registry import Collector

from hotset.daemon.status import SessionStatus
from hotset.protos import metrics
from hotset.protos.errors import HotsetError


class Source(Protocol):
    """Whoever knows the sessions that are served now."""

    @property
    def statuses(self) -> Sequence[SessionStatus]:
        """Their status."""


class Exporter:
    """A running HTTP endpoint."""

    def __init__(self, server: WSGIServer, thread: threading.Thread) -> None:
        self._server, self._thread = server, thread

    @property
    def port(self) -> int:
        """The port, also if any free one was asked for."""
        return int(self._server.server_port)

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def serve_metrics(source: Source, port: int) -> Exporter:
    """Listen on localhost; port 0 takes any free one. Raises HotsetError if the port is taken."""
    registry = CollectorRegistry()
    registry.register(SessionCollector(source))
    try:
        return Exporter(*start_http_server(port, addr="127.0.0.1", registry=registry))
    except OSError as error:
        raise HotsetError(f"cannot serve metrics on port {port}: {error.strerror}; choose another") from None


class SessionCollector(Collector):
    """Turns `SessionStatus` into metric families named by `hotset.protos.metrics`."""

    def __init__(self, source: Source) -> None:
        self._source = source

    def collect(self) -> Iterator[Family]:
        """One sample a session and metric."""
        families = {metric.name: _family(metric) for metric in metrics.ALL}
        for status in self._source.statuses:
            labels = [str(status.about.get(key, "")) for key in metrics.SESSION_LABELS]
            for name, more, value in _samples(status):
                families[name].add_metric([*labels, *more], value)
        yield from families.values()


def _family(metric: metrics.Metric) -> CounterMetricFamily | GaugeMetricFamily:
    kind = CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily
    return kind(metric.name, metric.help, labels=[*metrics.SESSION_LABELS, *metric.labels])


def _samples(status: SessionStatus) -> Iterator[tuple[str, list[str], float]]:
    for field, metric in metrics.COUNTERS.items():
        yield metric.name, [], getattr(status.counters, field)
    for reason, count in status.counters.entries_rejected.copy().items():
        yield metrics.REJECTED.name, [reason], count
    yield metrics.EPOCH.name, [], status.epoch
    yield metrics.CONTROLLER.name, [], status.role == "controller"
    yield metrics.SEQUENCES.name, [], status.sequences
    yield metrics.RESERVE.name, [], status.reserve
    yield metrics.LEARNED.name, [], status.source == "learned"
    for quantile, seconds in status.plan_quantiles().items():
        yield metrics.PLAN_SECONDS.name, [quantile], seconds
